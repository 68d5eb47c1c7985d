"""Every public class, method and function has a numpydoc docstring that holds."""

import importlib
import inspect

import pytest
from numpydoc.validate import validate

MODULES = (
    "gandl",
    "gandl.report",
    "gandl.images",
    "gandl.gan",
    "gandl.datasets",
    "gandl.plotting",
    "gandl.profiles",
    "gandl.scoring",
    "gandl.testing",
    "gandl.zero_shot",
)
# ES01, SA01: no obligatory extended summary or see-also; EX01: examples stand with
# the class or function, not with each method; GL08 of modules; YD01 has no use here;
# RT02: names of returned values help.
IGNORED = {"ES01", "SA01", "YD01", "RT02"}


def public_objects():
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            if not callable(thing):
                continue
            yield f"{module}.{name}"
            if inspect.isclass(thing):
                for attribute, member in own_members(thing):
                    if not attribute.startswith("_") and (
                        inspect.isfunction(member) or isinstance(member, classmethod)
                    ):
                        yield f"{module}.{name}.{attribute}"


def own_members(thing):
    """Those of the class and of its bases that are gandl's."""
    for base in thing.__mro__:
        if base.__module__.startswith("gandl"):
            yield from vars(base).items()


@pytest.mark.parametrize("name", sorted(set(public_objects())))
def test_docstring(name):
    is_method = name.rsplit(".", 2)[1][0].isupper()
    ignored = IGNORED | ({"EX01"} if is_method else set())
    errors = [error for error in validate(name)["errors"] if error[0] not in ignored]
    assert errors == []

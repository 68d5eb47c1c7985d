"""Which channel of a file is which, where files name their channels themselves."""

from __future__ import annotations

import numpy as np

Names = tuple[str, ...]


def names_of_first(path: str, own: Names, asked: Names) -> tuple[Names, Names]:
    """The names that channels are taken by, in order, and those that stand for them.

    ``asked`` are the user's: the first file's own, in any order, or others for them.
    """
    if _are_same(own, asked):
        return asked, ()
    if len(asked) == len(own) and (moved := _moved(asked, own)):
        raise ValueError(
            f"{path!r} calls its channels {list(own)}, in this order, where "
            f"`channels` are {list(asked)}: {moved!r} is another. Name all as the file "
            "does, in any order, or all by other names, in the file's order."
        )
    return own, asked


def arranged(
    image: np.ndarray, own: Names, expected: Names, asked: Names
) -> np.ndarray | None:
    """An image's channels in the order of the first file's; None if it is not known.

    ``own`` are the file's names, ``expected`` the first file's, each empty without, and
    ``asked`` what the user calls the first, the second ... of any file.
    """
    if own == expected:
        return image
    for names in (expected, asked):
        if own and _are_same(own, names):
            return image[[own.index(name) for name in names]]
    if asked and not _moved(own, expected) and not _moved(own, asked):
        return image
    return None


def _are_same(own: Names, others: Names) -> bool:
    return len(own) == len(others) and {*own} == {*others}  # own ones are unique


def _moved(some: Names, others: Names) -> str | None:
    """A name that both have, at different places."""
    for place, name in enumerate(some):
        if name in others and others.index(name) != place:
            return name
    return None

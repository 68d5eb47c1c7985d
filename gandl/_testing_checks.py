"""The checks behind `gandl.testing`, and what they share."""

import copy
import functools
import io
import os
import pickle
import random
import re
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import sklearn
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

DTYPES = ("uint8", "uint16", "int32", "float32", "float64")
REFIT_ATOL = 1e-2  # a fit amplifies the rounding of its input
TORCH_SETTINGS = (
    "get_num_threads",
    "get_default_dtype",
    "is_grad_enabled",
    "are_deterministic_algorithms_enabled",
    "get_float32_matmul_precision",
)
# A memory map that is large beside a batch of images or a sample of pixels.
LARGE_IMAGES, LARGE_BYTES, MOST_BYTES = 2**12, 2**24, 2**26


@dataclass(eq=False)
class Subject:
    # An estimator with the images to check it on, and what its checks share.
    estimator: Any
    images: np.ndarray
    atol: float
    changes: list[str] = field(default_factory=list)  # of the global state

    def unfitted(self, seed: int = 0) -> Any:
        fresh = clone(self.estimator).set_output(transform="default")
        if "random_state" in fresh.get_params(deep=False):
            fresh.set_params(random_state=seed)
        return fresh

    @functools.cached_property
    def first(self) -> tuple[Any, int, np.ndarray]:
        return self._fit_watched(global_seed=1)

    @functools.cached_property
    def second(self) -> tuple[Any, int, np.ndarray]:
        _ = self.first  # which imports, at the cost of memory, what fit imports
        return self._fit_watched(global_seed=2)

    def _fit_watched(self, global_seed: int) -> tuple[Any, int, np.ndarray]:
        # The fitted estimator, the memory that its fit took, its features.
        modules = set(sys.modules)
        with _seeded_globally(global_seed):
            states = [_global_state()]
            fitted, peak = _traced(self.unfitted().fit, self.images.copy())
            states.append(_global_state())
            features = copy.deepcopy(fitted).transform(self.images.copy())
            states.append(_global_state())
        if set(sys.modules) - modules:  # an import may set these, as is its right
            for state in states:
                del state["warning filters"], state["os.environ"]
        self.changes += _changes("fit", *states[:2])
        self.changes += _changes("transform", *states[1:])
        return fitted, peak, features

    def fitted(self) -> Any:
        return copy.deepcopy(self.first[0])

    def expect_features(self, fitted: Any, what: str, images: Any = None) -> None:
        images = self.images.copy() if images is None else images
        self.expect_equal(fitted.transform(images), what)

    def expect_equal(
        self, features: Any, what: str, rows: Any = slice(None), atol: float = 0.0
    ) -> None:
        reference = self.first[2][rows]
        shape = reference.shape
        _expect(features.shape == shape, f"{shape} features {what}", features.shape)
        apart = np.abs(features.astype(np.float64) - reference).max(axis=1)
        row, allowed = int(np.argmax(apart)), atol * np.abs(reference).max()
        how = f"apart by at most {allowed:.3g}" if atol else "bit for bit"
        seen = f"row {row} apart by {apart[row]:.3g}"
        _expect(apart[row] <= allowed, f"equal features {what}, {how}", seen)


def _expect(condition: Any, expected: str, seen: object) -> None:
    if not condition:
        raise AssertionError(f"expected {expected}; saw {seen}")


def _expect_error(
    call: Callable[[Any], object],
    images: np.ndarray,
    what: str,
    *names: list[str],
    kind: type[Exception] = ValueError,
) -> None:
    # Each of the lists holds spellings, of which the message must hold one.
    expected = f"{kind.__name__} from {what}"
    if names:
        expected += f" that names {' and '.join(spelt[0] for spelt in names)}"
    try:
        call(images)
        seen = "no error"
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        # A number counts where no digit adjoins it: 3 in "3-D", not in "32".
        words = [f"({'|'.join(map(re.escape, spelt))})" for spelt in names]
        said = [re.search(rf"(?<!\d){word}(?!\d)", seen, re.I) for word in words]
        if isinstance(error, kind) and all(said):
            return
    _expect(False, expected, seen)


def rescale(images: ArrayLike) -> np.ndarray:
    array = np.asarray(images, dtype=np.float64)
    if array.ndim != 4 or len(array) < 8:
        raise ValueError(
            f"images has shape {array.shape}; give at least 8 images as (n, C, H, W)."
        )
    low, high = array.min(), array.max()
    if low < 0 or high > 255 or np.any(array != np.rint(array)):
        array = (array - low) * (255 / max(high - low, np.finfo(float).tiny))
    return np.rint(array).astype(np.uint8)


def simulate() -> np.ndarray:
    # 12 cells: a blob of a texture that grows coarser from image to image.
    rng = np.random.default_rng(0)
    across = np.arange(32) - 15.5
    blob = np.exp(-(across[:, None] ** 2 + across**2) / 120)
    frequency = np.fft.fftfreq(32)[:, None] ** 2 + np.fft.fftfreq(32) ** 2
    sigmas = np.linspace(0.5, 4, 12)[:, None, None, None]
    noise = np.fft.fft2(rng.standard_normal((12, 2, 32, 32)))
    texture = np.fft.ifft2(noise * np.exp(-20 * sigmas**2 * frequency)).real
    texture /= texture.std(axis=(2, 3), keepdims=True)
    return np.clip(20 + blob * (110 + 40 * texture), 0, 255).astype(np.uint8)


def _collection(images: np.ndarray) -> Any:
    from gandl.images import ImageCollection

    return ImageCollection.from_array(images)


def _traced(call: Callable[..., Any], *args: Any) -> tuple[Any, int]:
    # The result of a call, and the most bytes that it held at a time.
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        result = call(*args)
        return result, tracemalloc.get_traced_memory()[1] - start
    finally:
        if ours:
            tracemalloc.stop()


@contextmanager
def _seeded_globally(seed: int) -> Iterator[None]:
    # Who seeds with a constant is seen only if the state was another one before.
    torch: Any = sys.modules.get("torch")
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    torch_state = torch.get_rng_state() if torch else None
    try:
        np.random.seed(987654 + seed)  # noqa: NPY002
        random.seed(987654 + seed)
        if torch:
            torch.default_generator.manual_seed(987654 + seed)
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if torch:
            torch.set_rng_state(torch_state)


def _global_state() -> dict[str, object]:
    state: dict[str, object] = {
        "np.random.get_state()": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "random.getstate()": random.getstate(),
        "np.geterr()": np.geterr(),
        "warning filters": list(warnings.filters),
        "os.environ": dict(os.environ),
        "sklearn.get_config()": sklearn.get_config(),
    }
    if torch := sys.modules.get("torch"):
        cudnn = torch.backends.cudnn
        state["torch.backends.cudnn"] = (cudnn.deterministic, cudnn.benchmark)
        state["torch.get_rng_state()"] = torch.get_rng_state().numpy().tobytes()
        for name in TORCH_SETTINGS:
            state[f"torch.{name}()"] = getattr(torch, name)()
    return state


def _changes(call: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [
        f"{call} changes {name}: {before[name]!s:.80} -> {after[name]!s:.80}"
        for name in before
        if name in after and before[name] != after[name]
    ]


def _check_not_fitted(subject: Subject) -> None:
    transform, what = subject.unfitted().transform, "transform before fit"
    _expect_error(transform, subject.images.copy(), what, kind=NotFittedError)


def _check_dtypes(subject: Subject) -> None:
    count = len(subject.images)
    for dtype in DTYPES:
        images = subject.images.astype(dtype)
        cases = [(subject.fitted(), subject.atol)]
        if dtype != "uint8":
            refitted = subject.unfitted().fit(images.copy())
            cases.append((refitted, max(REFIT_ATOL, subject.atol)))
        for fitted, atol in cases:
            features = fitted.transform(images.copy())
            kind = type(features).__name__
            _expect(isinstance(features, np.ndarray), f"an array from {dtype}", kind)
            well = features.ndim == 2 and features.dtype == np.float32
            seen = f"{features.dtype} {features.shape}"
            _expect(well, f"float32 ({count}, d) from {dtype} images", seen)
            _expect(np.isfinite(features).all(), f"finite from {dtype}", features)
            what = f"of {dtype} and of uint8 images"
            subject.expect_equal(features, what, atol=atol)


def _check_parameters(subject: Subject) -> None:
    given = subject.estimator.get_params(deep=False)
    kept = clone(subject.estimator).set_params(**given).get_params(deep=False)
    lost = [name for name in given if kept.get(name) is not given[name]]
    _expect(not lost, "set_params to store parameters as given", f"{lost} otherwise")
    before = subject.unfitted().get_params(deep=False)
    after = subject.first[0].get_params(deep=False)
    changed = [
        f"{name}={after.get(name)!r}"
        for name in before
        if joblib.hash(before[name]) != joblib.hash(after.get(name))
    ]
    _expect(not changed, "fit to leave the parameters as they were", changed)


def _check_input(subject: Subject) -> None:
    images = subject.images.astype(np.float32)
    for call in (subject.fitted().transform, subject.unfitted().fit):
        call(images)
        rows = np.flatnonzero((images != subject.images).any(axis=(1, 2, 3)))
        _expect(not rows.size, f"{call.__name__} not to write into X", f"new {rows}")


def _check_random_state(subject: Subject) -> None:
    subject.expect_equal(subject.second[2], "of two fits with the same seed")
    if "random_state" in subject.estimator.get_params(deep=False):
        other = subject.unfitted(seed=1).fit(subject.images.copy())
        equal = np.array_equal(other.transform(subject.images), subject.first[2])
        _expect(not equal, "random_state=1 to give other features than 0", "equal ones")


def _check_global_state(subject: Subject) -> None:
    _ = subject.first, subject.second
    seen = "; ".join(subject.changes)
    _expect(not seen, "fit and transform to leave the global state alone", seen)


def _check_target(subject: Subject) -> None:
    target = np.arange(len(subject.images)) % 2
    fitted = subject.unfitted().fit(subject.images.copy(), target)
    subject.expect_features(fitted, "of fit(X, y) and fit(X)")


def _check_fit_transform(subject: Subject) -> None:
    features = subject.unfitted().fit_transform(subject.images.copy())
    subject.expect_equal(features, "of fit_transform and of fit, transform")


def _check_rows(subject: Subject) -> None:
    # One estimator for all: what it remembers of a call must not show in the next.
    images, fitted, rng = subject.images, subject.fitted(), np.random.default_rng(0)
    count, atol = len(images), subject.atol
    for size in (1, 2):
        starts = range(0, count, size)
        parts = [fitted.transform(images[i : i + size]) for i in starts]
        what = f"of all images and {size} at a time"
        subject.expect_equal(np.concatenate(parts), what, atol=atol)
    for what, rows in [
        ("in another order", rng.permutation(count)),
        ("repeated", np.arange(count).repeat(3)),
        ("drawn", rng.integers(count, size=2 * count + 1)),
    ]:
        features, what = fitted.transform(images[rows]), f"of images once and {what}"
        subject.expect_equal(features, what, rows, atol)
    among = np.stack([images, 255 - images], axis=1).reshape(-1, *images.shape[1:])
    what = "of images alone and each among its negatives"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # to warn of negatives is well
        embedded = fitted.transform(among)
    subject.expect_equal(embedded[::2], what, atol=atol)
    if "batch_size" in fitted.get_params(deep=False):
        for size in (1, 3, count + 1):
            features = fitted.set_params(batch_size=size).transform(images)
            what = f"of the fitted batch_size and of {size}"
            subject.expect_equal(features, what, atol=atol)


def _check_shapes(subject: Subject) -> None:
    images, transform = subject.images, subject.fitted().transform
    channels = images.shape[1]
    for wrong in (np.concatenate([images, images[:, :1]], axis=1), images[:, 1:]):
        if seen := wrong.shape[1]:
            what = f"transform of {seen} channels after fit on {channels}"
            _expect_error(transform, wrong, what, [str(seen)], [str(channels)])
    for wrong in (images[:, 0], images[None]):
        if wrong.ndim == 3 and get_tags(subject.estimator).input_tags.three_d_array:
            continue
        names = [str(wrong.ndim), str(wrong.shape)], ["4", "(n, C, H, W)"]
        for call in (subject.unfitted().fit, transform):
            what = f"{call.__name__} of {wrong.ndim} dimensions"
            _expect_error(call, wrong, what, *names)


def _check_finite(subject: Subject) -> None:
    fitted, images = subject.fitted(), subject.images
    blanks = [np.full_like(images, value) for value in (0, 255)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # to warn of such images is well
        refitted = subject.unfitted().fit(blanks[0])
        embedded = [
            ("of images of 0", fitted.transform(blanks[0])),
            ("of images of 255", fitted.transform(blanks[1])),
            ("after fit on images of 0", refitted.transform(images)),
        ]
    for what, features in embedded:
        _expect(np.isfinite(features).all(), f"finite features {what}", features[0])
    for value, names in [(np.nan, ["NaN"]), (np.inf, ["infinity", "inf"])]:
        broken = images.astype(np.float32)
        broken[-1, 0, 0, 0] = value
        _expect_error(fitted.transform, broken, f"transform of {value}", names)
        broken[:, 0, 0, 0] = value
        _expect_error(subject.unfitted().fit, broken, f"fit of {value}", names)


def _check_memmap(subject: Subject) -> None:
    images = subject.images.astype(np.uint16)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        small = _map(images, Path(folder, "small.npy"), len(images))
        features, usual = _traced(subject.fitted().transform, small)
        subject.expect_equal(features, "of a memory map and an array")
        enough = max(LARGE_IMAGES, LARGE_BYTES // images[0].nbytes)
        count = min(enough, MOST_BYTES // images[0].nbytes)
        large = _map(images, path := Path(folder, "large.npy"), count)
        stamp, fitted = path.stat().st_mtime_ns, subject.unfitted()
        _, peak = _traced(fitted.fit, large)
        held = {"held by fit": peak - subject.second[1]}
        features, peak = _traced(fitted.transform, large)
        held["held by transform"] = peak - usual - 2 * features.nbytes
        grown = len(pickle.dumps(fitted)) - len(pickle.dumps(subject.first[0]))
        held["kept in the pickle"] = grown
        for name, size in held.items():
            what = f"less than 3/4 of a memory map of {large.nbytes} bytes {name}"
            _expect(size < 0.75 * large.nbytes, what, f"{size} bytes more")
        _expect(path.stat().st_mtime_ns == stamp, "the file as it was", "it written to")


def _map(images: np.ndarray, path: Path, count: int) -> np.ndarray:
    shape = (count, *images.shape[1:])
    written = np.lib.format.open_memmap(path, "w+", images.dtype, shape)
    for start in range(0, count, len(images)):
        written[start : start + len(images)] = images[: count - start]
    written.flush()
    return np.load(path, mmap_mode="r")


def _check_collection(subject: Subject) -> None:
    collection = _collection(subject.images)
    what = "of a collection and of an array"
    subject.expect_features(subject.fitted(), what, collection)
    fitted = subject.unfitted().fit(collection)
    subject.expect_features(fitted, "after fit on a collection and on an array")


def _check_pickle(subject: Subject) -> None:
    fitted, buffers = subject.fitted(), list[pickle.PickleBuffer]()
    # Arrays go to the buffers, so that the rest can be measured.
    rest = pickle.dumps(fitted, protocol=5, buffer_callback=buffers.append)
    limit = 2**16 + sum(buffer.raw().nbytes for buffer in buffers) // 2
    _expect(len(rest) <= limit, f"{limit} bytes beside arrays", f"{len(rest)}")
    unpickler = _Unpickler(io.BytesIO(pickle.dumps(fitted)))
    subject.expect_features(unpickler.load(), "before and after pickling")
    torch = [name for name in unpickler.names if name.split(".")[0] == "torch"]
    _expect(not torch, "no torch object in the pickle", torch)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        joblib.dump(fitted, path := Path(folder, "estimator.joblib"))
        mapped = joblib.load(path, mmap_mode="r")
        subject.expect_features(mapped, 'before and after joblib with mmap_mode="r"')


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.names: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        self.names.append(f"{module}.{name}")
        return super().find_class(module, name)


def _check_set_output(subject: Subject) -> None:
    fitted = subject.fitted()
    names = list(fitted.get_feature_names_out())
    for library in ("pandas", "polars"):
        if find_spec(library) is None:
            continue
        table = fitted.set_output(transform=library).transform(subject.images.copy())
        kind = type(table).__module__.split(".")[0]
        _expect(kind == library, f"a DataFrame of {library}", type(table))
        _expect(list(table.columns) == names, f"columns {names}", list(table.columns))
        subject.expect_equal(table.to_numpy(), f"in {library} and in NumPy")
        index = list(getattr(table, "index", range(len(table))))
        _expect(index == list(range(len(table))), "rows counted from 0", index)


def _check_cross_validation(subject: Subject) -> None:
    count = len(subject.images)
    score = functools.partial(
        cross_val_score,
        y=np.sin(np.arange(count)),
        groups=np.arange(count) // 2,
        cv=GroupShuffleSplit(n_splits=1, test_size=0.5, random_state=0),
        scoring="neg_mean_squared_error",
        error_score="raise",
    )
    model = make_pipeline(subject.unfitted(), StandardScaler(), Ridge(solver="svd"))
    of_array = score(model, subject.images.copy())
    of_collection = score(model, _collection(subject.images))
    _expect(of_collection == of_array, f"an array's score, {of_array}", of_collection)


# In the order of the file: dictionaries keep it.
CHECKS = [value for name, value in globals().items() if name.startswith("_check_")]

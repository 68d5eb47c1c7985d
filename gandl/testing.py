"""Checks of image transformers, beside scikit-learn's own.

scikit-learn's checks know tables. The ones here hold a transformer of images
(n, C, H, W) to what tables cannot show: memory-mapped files, channels, pickles
without tensors, rows that do not see their neighbours, a global state left alone.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from gandl._testing_checks import CHECKS, Subject, rescale, simulate

__all__ = ["check_image_estimator", "parametrize_with_image_checks"]


def check_image_estimator(
    estimator: BaseEstimator, images: ArrayLike | None = None, *, atol: float = 1e-5
) -> None:
    """Check that a transformer of images keeps the promises of this package.

    Fits clones of `estimator` about 15 times, once on a memory-mapped file of some 4096
    images (16 to 64 MiB), so give it a small training budget, in steps or images rather
    than in passes over the data. The checks, in their order:

    - not_fitted: `transform` before `fit` raises `NotFittedError`.
    - dtypes: `fit` and `transform` take uint8, uint16, int32, float32 and float64;
      features are finite float32 (n, d) and the same for the same values.
    - parameters: `clone`, `set_params` and `fit` keep them.
    - input: `fit` and `transform` do not write into the images.
    - random_state: the same seed gives the same bits, another seed other features.
    - global_state: random states, thread count, default dtype, gradient mode, NumPy's
      error state, warning filters and environment stay as they were.
    - target: `fit` ignores `y`.
    - fit_transform: equals `fit` and then `transform`.
    - rows: row i of `transform` depends on image i alone, whatever its neighbours,
      their order and number; a parameter `batch_size` is also varied after `fit`.
    - shapes: another number of channels (`transform`) or dimensions (both) raises a
      `ValueError` that names what it got and what it expected. Three dimensions are
      legal where the estimator's tag `three_d_array` says so.
    - finite: images of one value have finite features; NaN and infinity raise a
      `ValueError` that names them (`transform`: in one image; `fit`: in every image,
      for a short fit need not see them all).
    - memmap: a read-only memory map is neither copied as a whole nor kept, as measured
      by tracemalloc, which sees the memory of NumPy but not that of torch.
    - collection: an `ImageCollection` gives the bits of the array.
    - pickle: keeps the features, holds no torch object, and beside its arrays at most
      half their size and 64 KiB; `joblib.load` with `mmap_mode="r"` works.
    - set_output: pandas and, if installed, polars.
    - cross_validation: a pipeline with groups scores a collection as the array.

    Parameters
    ----------
    estimator : estimator object
        A transformer of images. The checks set its `random_state`, if it has one.
    images : array-like of shape (n, C, H, W), default=None
        At least 8 images, rescaled to whole numbers from 0 to 255, which every type
        can hold. By default 12 simulated ones of 2 x 32 x 32 pixels.
    atol : float, default=1e-5
        How far features of the same images may lie apart in the checks dtypes and
        rows, times the largest absolute feature. Equal bits are the goal, and 0 asks
        for them; but matrix products choose their order of summation by the size of
        the batch, so that rounding may differ. All other checks compare bits.

    Raises
    ------
    AssertionError
        At the first promise that is broken: what was expected, what was seen.
    ValueError
        If `images` is not of the shape above.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from gandl.testing import check_image_estimator
    >>> check_image_estimator(StandardScaler())
    Traceback (most recent call last):
    ...
    AssertionError: StandardScaler, check_dtypes: expected no error; saw ValueError...
    """
    for _, check in _checks_of(estimator, images, atol):
        check(estimator)


def parametrize_with_image_checks(
    estimators: Iterable[BaseEstimator],
    images: ArrayLike | None = None,
    *,
    atol: float = 1e-5,
) -> Any:
    """Make a pytest test of each check of `check_image_estimator`.

    Parameters
    ----------
    estimators : iterable of estimator objects
        Transformers of images.
    images : array-like of shape (n, C, H, W), default=None
        See `check_image_estimator`.
    atol : float, default=1e-5
        See `check_image_estimator`.

    Returns
    -------
    decorator : pytest.mark.parametrize
        For a test with the arguments `estimator` and `check`.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from gandl.testing import parametrize_with_image_checks
    >>> @parametrize_with_image_checks([StandardScaler()])
    ... def test_images(estimator, check):
    ...     check(estimator)
    """
    import pytest

    cases = [
        pytest.param(estimator, check, id=f"{estimator}-{name}")
        for estimator in estimators
        for name, check in _checks_of(estimator, images, atol)
    ]
    return pytest.mark.parametrize(("estimator", "check"), cases)


def _checks_of(
    estimator: BaseEstimator, images: ArrayLike | None, atol: float
) -> Iterator[tuple[str, Callable[[BaseEstimator], None]]]:
    prepared = simulate() if images is None else rescale(images)
    # Estimators hash by identity: one subject, with its fits, for all the checks.
    subject = functools.cache(lambda estimator: Subject(estimator, prepared, atol))
    for check in CHECKS:
        yield check.__name__[1:], functools.partial(_run, check, subject)


def _run(check: Any, subject: Any, estimator: BaseEstimator) -> None:
    where = f"{type(estimator).__name__}, {check.__name__[1:]}"
    try:
        check(subject(estimator))
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        raise AssertionError(f"{where}: expected no error; saw {seen}") from error

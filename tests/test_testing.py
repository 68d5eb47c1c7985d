import os
import random
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted

from gandl.images import ImageCollection
from gandl.testing import check_image_estimator, parametrize_with_image_checks


class Toy(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A random projection of the mean, deviation and edges of each channel."""

    def __init__(self, *, n_components=8, batch_size=50, random_state=None):
        self.n_components = n_components
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, X, y=None):
        self.n_channels_in_ = self._count_channels(X)
        statistics = self._statistics(X)
        self.center_ = statistics.mean(axis=0)
        self.scale_ = self._safe(statistics.std(axis=0))
        shape = (statistics.shape[1], self.n_components)
        self.weights_ = self._generator().standard_normal(shape)
        return self

    def transform(self, X):
        check_is_fitted(self)
        count = self._count_channels(X)
        if count != self.n_channels_in_:
            raise ValueError(f"X has {count} channels; fitted on {self.n_channels_in_}")
        scaled = (self._statistics(X) - self.center_) / self.scale_
        return self._finish((scaled @ self.weights_).astype(np.float32))

    def _finish(self, features):
        return features

    @property
    def _n_features_out(self):
        return self.weights_.shape[1]

    def _generator(self):
        return np.random.default_rng(self.random_state)

    def _safe(self, scale):
        return np.where(scale > 0, scale, 1)

    def _count_channels(self, X):
        if X.ndim != 4:
            raise ValueError(f"X has {X.ndim} dimensions; expected 4: (n, C, H, W)")
        return X.shape[1]

    def _statistics(self, X):
        starts = range(0, len(X), self.batch_size)
        parts = [self._statistics_of(X[i : i + self.batch_size]) for i in starts]
        return np.concatenate(parts)

    def _statistics_of(self, batch):
        pixels = np.asarray(batch)[:, :, ::4, ::4].astype(np.float32)
        self._refuse_not_finite(pixels)
        edges = np.abs(np.diff(pixels, axis=3)).mean(axis=(2, 3))
        mean, deviation = pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3))
        return np.concatenate([mean, deviation, edges], axis=1)

    def _refuse_not_finite(self, batch):
        for name, found in [("NaN", np.isnan), ("infinity", np.isinf)]:
            if found(batch).any():
                raise ValueError(f"X contains {name}")


@parametrize_with_image_checks([Toy(), Toy(n_components=3, batch_size=100)])
def test_toy(estimator, check):
    check(estimator)


# Each broken estimator is to be caught by one check, the one that its list names.
BROKEN = []


def caught_by(name):
    def register(cls):
        BROKEN.append(pytest.param(cls, name, id=f"{name}-{cls.__name__}"))
        return cls

    return register


@caught_by("not_fitted")
class NeedsNoFit(Toy):
    def transform(self, X):
        if not hasattr(self, "weights_"):
            return np.zeros((len(X), 1), dtype=np.float32)
        return super().transform(X)


@caught_by("dtypes")
class RefusesInt32(Toy):
    def fit(self, X, y=None):
        if X.dtype == np.int32:
            raise TypeError("int32")
        return super().fit(X)


@caught_by("dtypes")
class GivesFloat64(Toy):
    def _finish(self, features):
        return features.astype(np.float64)


@caught_by("dtypes")
class ScalesInt32InTransform(Toy):
    def transform(self, X):
        return super().transform(X) * (2 if X.dtype == np.int32 else 1)


@caught_by("dtypes")
class ScalesInt32InFit(Toy):
    def fit(self, X, y=None):
        super().fit(X)
        self.weights_ *= 2 if X.dtype == np.int32 else 1
        return self


@caught_by("parameters")
class ChangesParameter(Toy):
    def fit(self, X, y=None):
        super().fit(X)
        self.batch_size = 3
        return self


@caught_by("parameters")
class ChangesWhatIsSet(Toy):
    def set_params(self, **params):
        super().set_params(**params)
        self.batch_size += "batch_size" in params
        return self


@caught_by("input")
class WritesInFit(Toy):
    def fit(self, X, y=None):
        super().fit(X)
        if X.dtype == np.float32:
            X += 1
        return self


@caught_by("input")
class WritesInTransform(Toy):
    def transform(self, X):
        features = super().transform(X)
        if X.dtype == np.float32:
            X += 1
        return features


@caught_by("random_state")
class IgnoresSeed(Toy):
    def _generator(self):
        return np.random.default_rng(0)


class ChangesGlobalState(Toy):
    def __init__(self, *, change="", where="", random_state=None):
        super().__init__(random_state=random_state)
        self.change = change
        self.where = where

    def fit(self, X, y=None):
        super().fit(X)
        if self.where == "fit":
            GLOBAL[self.change]()
        return self

    def transform(self, X):
        features = super().transform(X)
        if self.where == "transform":
            GLOBAL[self.change]()
        return features


GLOBAL = {
    "np.random.seed": lambda: np.random.seed(0),  # noqa: NPY002
    "np.random.rand": lambda: np.random.rand(),  # noqa: NPY002
    "np.seterr": lambda: np.seterr(under="warn"),
    "random.random": lambda: random.random(),
    "warnings": lambda: warnings.simplefilter("ignore"),
    "environ": lambda: os.environ.update(
        GANDL_TEST=str(random.SystemRandom().random())
    ),
    "manual_seed": lambda: torch.manual_seed(0),
    "set_num_threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "set_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
}


@caught_by("target")
class LearnsFromTarget(Toy):
    def fit(self, X, y=None):
        super().fit(X)
        self.weights_ *= 1 if y is None else 2
        return self


@caught_by("fit_transform")
class OtherFitTransform(Toy):
    def fit_transform(self, X, y=None):
        return 2 * self.fit(X).transform(X)


@caught_by("rows")
class CentresTheBatch(Toy):
    def _finish(self, features):
        return features - features.mean(axis=0)


@caught_by("rows")
class DependsOnBatchSize(Toy):
    def _finish(self, features):
        return features + np.float32(self.batch_size)


@caught_by("rows")
class DependsOnPosition(Toy):
    def _finish(self, features):
        return features + np.arange(len(features), dtype=np.float32)[:, None]


@caught_by("shapes")
class DropsChannels(Toy):
    def transform(self, X):
        more = X.ndim == 4 and X.shape[1] > 2
        return super().transform(X[:, :2] if more else X)


@caught_by("shapes")
class NamesNoNumbers(Toy):
    def transform(self, X):
        check_is_fitted(self)
        if X.ndim == 4 and X.shape[1] != self.n_channels_in_:
            raise ValueError("wrong number of channels")
        return super().transform(X)


@caught_by("shapes")
class TakesFiveDimensions(Toy):
    def fit(self, X, y=None):
        return super().fit(X[0] if X.ndim == 5 else X)


@caught_by("shapes")
class RaisesIndexError(Toy):
    def _count_channels(self, X):
        if X.ndim == 3:
            raise IndexError("X has 3 dimensions, expected 4")
        return super()._count_channels(X)


@caught_by("finite")
class TakesNaN(Toy):
    def _refuse_not_finite(self, batch):
        super()._refuse_not_finite(np.nan_to_num(batch, posinf=np.inf))


@caught_by("finite")
class NamesNoInfinity(Toy):
    def _refuse_not_finite(self, batch):
        if not np.isfinite(batch).all():
            raise ValueError("X contains NaN, or else")


@caught_by("finite")
class DividesByZero(Toy):
    def _safe(self, scale):
        return scale


@caught_by("finite")
class QuietlyDividesByZero(Toy):
    def _statistics_of(self, batch):
        statistics = super()._statistics_of(batch)
        with np.errstate(invalid="ignore"):
            return statistics / statistics[:, :1] * statistics[:, :1]


@caught_by("memmap")
class CastsInFit(Toy):
    def fit(self, X, y=None):
        return super().fit(np.asarray(X, dtype=np.float32))


@caught_by("memmap")
class CastsAfterAnImport(CastsInFit):
    # The memory of the first fit is no measure of the others.
    imported = False

    def fit(self, X, y=None):
        if not CastsAfterAnImport.imported:
            CastsAfterAnImport.imported = bool(np.ones(2**26, dtype=np.uint8).all())
        return super().fit(X)


@caught_by("memmap")
class CopiesInTransform(Toy):
    def transform(self, X):
        return super().transform(np.array(X))


@caught_by("memmap")
class KeepsImages(Toy):
    def fit(self, X, y=None):
        self.images_ = X
        return super().fit(X)


@caught_by("memmap")
class NeedsWritable(Toy):
    def fit(self, X, y=None):
        if isinstance(X, np.ndarray) and not X.flags.writeable:
            raise ValueError("read-only")
        return super().fit(X)


@caught_by("collection")
class OtherForCollections(Toy):
    def transform(self, X):
        return super().transform(X) * (2 if isinstance(X, ImageCollection) else 1)


@caught_by("pickle")
class HoldsTensor(Toy):
    def fit(self, X, y=None):
        self.tensor_ = torch.zeros(1)
        return super().fit(X)


@caught_by("pickle")
class HoldsMuchText(Toy):
    def fit(self, X, y=None):
        self.log_ = "a" * 2**17
        return super().fit(X)


@caught_by("pickle")
class NeedsWritableWeights(Toy):
    def transform(self, X):
        check_is_fitted(self)
        self.weights_ *= 1
        return super().transform(X)


@caught_by("set_output")
class IgnoresSetOutput(Toy):
    def set_output(self, *, transform=None):
        return self


@caught_by("cross_validation")
class NeedsManyImages(Toy):
    def fit(self, X, y=None):
        if X.ndim == 4 and 2 < len(X) < 8:
            raise ValueError("too few")
        return super().fit(X)


@caught_by("cross_validation")
class ReversesPartsOfCollections(Toy):
    def transform(self, X):
        features = super().transform(X)
        part = isinstance(X, ImageCollection) and len(X) < 8
        return features[::-1].copy() if part else features


def failures(estimator):
    # Name of each failing check -> its message.
    failed = {}
    for given, check in (
        case.values for case in parametrize_with_image_checks([estimator]).args[1]
    ):
        try:
            check(given)
        except AssertionError as error:
            where, _, what = str(error).partition(": ")
            failed[where.removeprefix(f"{type(estimator).__name__}, check_")] = what
    return failed


@pytest.mark.parametrize(("broken", "name"), BROKEN)
def test_broken_estimator_is_caught_by_its_check(broken, name):
    failed = failures(broken())
    assert list(failed) == [name], failed
    assert failed[name].startswith("expected ")
    assert "; saw " in failed[name]


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.setenv("GANDL_TEST", "")
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with np.errstate(), torch.enable_grad():
        yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("where", ["fit", "transform"])
@pytest.mark.parametrize("change", GLOBAL)
def test_change_of_global_state_is_caught(change, where):
    failed = failures(ChangesGlobalState(change=change, where=where))
    assert list(failed) == ["global_state"]


def test_global_randomness_is_caught():
    class Unseeded(Toy):
        def _generator(self):
            return np.random.default_rng()

    assert "random_state" in failures(Unseeded())


def test_global_state_is_the_same_after_the_checks():
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    check_image_estimator(Toy())
    assert np.array_equal(np.random.get_state()[1], expected[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), expected[1])


class Counted(Toy):
    fits = 0

    def fit(self, X, y=None):
        super().fit(X)
        Counted.fits += 1
        return self


def test_fits_are_few(monkeypatch):
    monkeypatch.setattr(Counted, "fits", 0)
    check_image_estimator(Counted())
    assert 0 < Counted.fits <= 15


def test_first_failure_is_raised():
    with pytest.raises(AssertionError, match=r"^GivesFloat64, check_dtypes: expected"):
        check_image_estimator(GivesFloat64())


@pytest.mark.parametrize("shape", [(8, 1, 20, 24), (9, 5, 16, 16)])
def test_images_of_the_user(shape):
    check_image_estimator(Toy(), np.random.default_rng(0).random(shape))


@pytest.mark.parametrize("shape", [(12, 32, 32), (7, 1, 32, 32)])
def test_images_of_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"shape \(.*at least 8 images"):
        check_image_estimator(Toy(), np.zeros(shape))


def test_atol_of_zero_asks_for_equal_bits():
    class Rounded(Toy):
        def transform(self, X):
            return super().transform(X) * np.float32(1 + 1e-6 * (len(X) == 1))

    assert not failures_of_rows(Rounded(), atol=1e-5)
    assert failures_of_rows(Rounded(), atol=0)


def failures_of_rows(estimator, atol):
    cases = parametrize_with_image_checks([estimator], atol=atol).args[1]
    case = next(case for case in cases if case.id.endswith("-check_rows"))
    try:
        case.values[1](estimator)
    except AssertionError as error:
        return str(error)
    return ""

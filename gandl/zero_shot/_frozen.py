"""The featurizer that was fitted before, on other images."""

from __future__ import annotations

from typing import Any

from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted


def check_featurizer(estimator: Any) -> Any:
    """The featurizer of an estimator, which is to be fitted; None where it has none."""
    featurizer = estimator.featurizer
    if featurizer is None:
        return None
    try:
        check_is_fitted(featurizer)
    except NotFittedError:
        raise NotFittedError(
            f"{type(estimator).__name__} takes a featurizer that is fitted, and this "
            f"{type(featurizer).__name__} is not. Cross-validation and searches clone, "
            "and a clone is not fitted: hand over "
            "sklearn.frozen.FrozenEstimator(featurizer), which stays as it is."
        ) from None
    return featurizer

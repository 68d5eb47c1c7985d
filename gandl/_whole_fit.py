"""A fit that is whole, or has not been."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

_Fit = TypeVar("_Fit", bound=Callable[..., Any])


def whole_fit(fit: _Fit) -> _Fit:
    """Leave an estimator as it was before a fit that is refused, or fails."""

    @wraps(fit)
    def fit_or_restore(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(estimator))
        try:
            return fit(estimator, *args, **kwargs)
        except BaseException:
            vars(estimator).clear()
            vars(estimator).update(before)
            raise

    return fit_or_restore  # type: ignore[return-value]

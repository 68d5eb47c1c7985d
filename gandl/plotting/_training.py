"""TrainingDisplay: how a training went."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from gandl.plotting._style import BLUE, GREEN, GREY, VERMILION, new_grid

# Losses of one panel, with their colours and line styles; None of them, no panel.
_PANELS = {
    "contrast and its penalty": {"contrast": (GREEN, "-")},
    "adversarial loss": {"discriminator": (BLUE, "-"), "generator": (VERMILION, "--")},
    "R1 penalty": {"r1": (GREY, "-")},
}
_MANY_IMAGES = 10_000_000


class TrainingDisplay:
    """Losses of a training against the images seen.

    Made by `from_estimator`.

    Parameters
    ----------
    loss_curve : dict of str to ndarray
        "n_images", and each loss there, NaN where it was not measured.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One a kind of loss.
    figure_ : matplotlib Figure
        Their figure.

    See Also
    --------
    gandl.GANDLFeaturizer : Has the curve as ``loss_curve_``.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.plotting import TrainingDisplay
    >>> curve = {"n_images": np.arange(1, 4) * 320, "contrast": np.array([3.0, 2, 1])}
    >>> TrainingDisplay(loss_curve=curve).plot().axes_[0].get_ylabel()
    'contrast and its penalty'
    """

    def __init__(self, *, loss_curve: dict[str, np.ndarray]) -> None:
        self.loss_curve = loss_curve

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> TrainingDisplay:
        """Draw the training of a featurizer.

        Parameters
        ----------
        estimator : GANDLFeaturizer
            Fitted.
        ax : array-like of matplotlib Axes, default=None
            Where to draw, one a kind of loss; None: a new figure.

        Returns
        -------
        TrainingDisplay
            Drawn.
        """
        check_is_fitted(estimator, "loss_curve_")
        return cls(loss_curve=estimator.loss_curve_).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> TrainingDisplay:
        """Draw.

        Parameters
        ----------
        ax : array-like of matplotlib Axes, default=None
            Where to draw, one a kind of loss; None: a new figure.

        Returns
        -------
        TrainingDisplay
            Itself.

        Raises
        ------
        ValueError
            If there is no loss: the estimator was not trained; or another number of
            axes than kinds of loss is given.
        """
        panels = {
            title: losses
            for title, losses in _PANELS.items()
            if losses.keys() & self.loss_curve.keys()
        }
        if not panels:
            raise ValueError("There is no loss to draw: nothing was trained.")
        figsize = (6, 1 + 1.6 * len(panels))
        self.figure_, self.axes_ = new_grid(
            ax, len(panels), 1, sharex=True, figsize=figsize
        )
        n_images = self.loss_curve["n_images"]
        for at, (title, losses) in zip(self.axes_, panels.items(), strict=True):
            for name, (colour, dashes) in losses.items():
                if name in self.loss_curve:
                    loss = self.loss_curve[name]
                    known = ~np.isnan(loss)
                    shape = dashes if known.sum() > 1 else "o"
                    at.plot(
                        n_images[known], loss[known], shape, color=colour, label=name
                    )
            at.set_ylabel(title)
            if len(losses) > 1:
                at.legend(fontsize="small", frameon=False)
        # Longer numbers would stand on each other.
        many = np.max(n_images, initial=0) >= _MANY_IMAGES
        self.axes_[-1].set_xlabel(f"{'millions of ' if many else ''}images seen")
        self.axes_[-1].xaxis.set_major_formatter(
            (lambda n, _: f"{n / 1e6:g}") if many else "{x:,.0f}"
        )
        return self

"""EmbeddingDisplay: embeddings in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from sklearn.decomposition import PCA
from sklearn.utils import check_array, check_consistent_length

from gandl._extras import needed
from gandl._row_labels import check_order
from gandl._row_labels import labels as as_labels
from gandl.plotting._style import (
    CATEGORIES,
    GREY,
    in_legend,
    new_axes,
    sorted_categories,
)

_IN_A_COLUMN = 18  # names in a column of the legend
_MARKERS = "osD^vPX*"


class EmbeddingDisplay:
    """Embeddings by their two principal components, or by UMAP.

    Made by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    points : array-like of shape (n, 2)
        Where each row lies.
    labels : array-like of shape (n,), default=None
        What each row is: numbers get a colour scale, all else a legend.
    names : tuple of 2 str
        Names of the axes.
    title : str, default=None
        What the labels are.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes drawn on.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    sklearn.decomposition.PCA : What projects.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.plotting import EmbeddingDisplay
    >>> embeddings = np.random.default_rng(0).normal(size=(20, 8))
    >>> display = EmbeddingDisplay.from_predictions(embeddings, ["a", "b"] * 10)
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['a', 'b']
    """

    def __init__(
        self,
        *,
        points: Any,
        labels: Any = None,
        names: tuple[str, str],
        title: str | None = None,
    ) -> None:
        self.points = points
        self.labels = labels
        self.names = names
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        labels: Any = None,
        *,
        method: str = "pca",
        title: str | None = None,
        random_state: Any = 0,
        ax: Any = None,
    ) -> EmbeddingDisplay:
        """Embed images by a fitted transformer and draw them.

        Parameters
        ----------
        estimator : fitted transformer
            A `GANDLFeaturizer`, or a pipeline that ends in profiles.
        X : ImageCollection or array-like
            What it transforms, n rows.
        labels : array-like of shape (n,), default=None
            What each row is.
        method : {"pca", "umap"}, default="pca"
            Principal components, or UMAP where umap-learn is installed.
        title : str, default=None
            What the labels are.
        random_state : int, RandomState instance or None, default=0
            Seeds the method.
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        EmbeddingDisplay
            Drawn.
        """
        return cls.from_predictions(
            estimator.transform(X),
            labels,
            method=method,
            title=title,
            random_state=random_state,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        embeddings: Any,
        labels: Any = None,
        *,
        method: str = "pca",
        title: str | None = None,
        random_state: Any = 0,
        ax: Any = None,
    ) -> EmbeddingDisplay:
        """Draw embeddings.

        Parameters
        ----------
        embeddings : array-like of shape (n, d)
            The embeddings, three rows at least.
        labels : array-like of shape (n,), default=None
            What each row is.
        method : {"pca", "umap"}, default="pca"
            Principal components, or UMAP where umap-learn is installed.
        title : str, default=None
            What the labels are.
        random_state : int, RandomState instance or None, default=0
            Seeds the method.
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        EmbeddingDisplay
            Drawn.

        Raises
        ------
        ValueError
            If lengths differ, or the method is another.
        ImportError
            If UMAP is asked for and umap-learn is not installed.
        """
        check_order(embeddings, of="embeddings", labels=labels)
        embeddings = check_array(
            embeddings, ensure_min_samples=3, ensure_min_features=2
        )
        check_consistent_length(embeddings, labels)
        if method == "pca":
            pca = PCA(2, random_state=random_state)
            points = pca.fit_transform(embeddings)
            first, second = pca.explained_variance_ratio_
            names = (f"PC 1 ({first:.0%})", f"PC 2 ({second:.0%})")
        elif method == "umap":
            points = _umap(embeddings, random_state)
            names = ("UMAP 1", "UMAP 2")
        else:
            raise ValueError(f'method is "pca" or "umap", got {method!r}.')
        display = cls(points=points, labels=labels, names=names, title=title)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> EmbeddingDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        EmbeddingDisplay
            Itself.
        """
        self.figure_, self.ax_ = new_axes(ax, figsize=(6, 4))
        points = np.asarray(self.points)
        size = float(np.clip(2000 / len(points), 4, 25))
        style = {"s": size, "linewidths": 0, "alpha": 0.8}
        labels = None if self.labels is None else pd.Series(self.labels)
        if labels is None:
            self.ax_.scatter(*points.T, color=CATEGORIES[0], **style)
        elif is_numeric_dtype(labels) and not is_bool_dtype(labels):
            numbers = labels.to_numpy(dtype=np.float64, na_value=np.nan)
            known = np.isfinite(numbers)
            shown = self.ax_.scatter(*points[known].T, c=numbers[known], **style)
            self.figure_.colorbar(shown, ax=self.ax_, label=self.title)
            if not known.all():
                missing = points[~known]
                self.ax_.scatter(*missing.T, color=GREY, label="none", **style)
                self.ax_.legend(fontsize="small", frameon=False)
        else:
            self._draw_categories(points, labels, style, new=ax is None)
        self.ax_.set(xlabel=self.names[0], ylabel=self.names[1])
        return self

    def _draw_categories(
        self,
        points: np.ndarray,
        given: pd.Series,
        style: dict[str, Any],
        *,
        new: bool,
    ) -> None:
        labels = as_labels(given)
        names = sorted_categories(labels)
        if isinstance(given.dtype, pd.CategoricalDtype) and given.cat.ordered:
            names = [name for name in given.cat.categories if name in names]
        missing = np.array([label is None for label in labels])
        if missing.any():
            self.ax_.scatter(*points[missing].T, color=GREY, label="none", **style)
        for k, label in enumerate(names):
            colour = CATEGORIES[k % len(CATEGORIES)]
            marker = _MARKERS[k // len(CATEGORIES) % len(_MARKERS)]
            mine = points[labels == label]
            self.ax_.scatter(
                *mine.T, color=colour, marker=marker, label=in_legend(label), **style
            )
        n_columns = -(-len(names) // _IN_A_COLUMN)
        if new and n_columns > 1:
            self.figure_.set_figwidth(6 + 1.3 * (n_columns - 1))
        legend = self.ax_.legend(
            title=self.title,
            ncols=max(1, n_columns),
            fontsize="small",
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1, 1),
        )
        for handle in legend.legend_handles:
            handle.set_sizes([25])


def _umap(embeddings: np.ndarray, random_state: Any) -> np.ndarray:
    with needed('method="umap" needs umap-learn: pip install umap-learn.'):
        from umap import UMAP
    return UMAP(random_state=random_state, n_jobs=1).fit_transform(embeddings)

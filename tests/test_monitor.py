"""Collapse and overfitting are measured, and told in plain words."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from gandl import GANDLFeaturizer
from gandl._monitor import Monitor


def random_images(n, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 2, 8, 8, generator=rng) * 2 - 1


SEEN, UNSEEN = random_images(16, 0), random_images(16, 1)


def monitor(*, seen, unseen, generated, draw=random_images):
    """A monitor of a discriminator that gives these logits."""

    def discriminator(x):
        logit = seen if x is SEEN else unseen if x is UNSEEN else generated
        return torch.full((len(x), 1), float(logit))

    trainer = SimpleNamespace(
        device=torch.device("cpu"),
        average=lambda n, rng: draw(n, 2),
        discriminator=discriminator,
    )
    return Monitor(trainer, SEEN, UNSEEN)


def told(watched, n=3):
    """What is told after as many measurements, here at odds with nobody."""
    rows = {}
    for _ in range(n):
        for name, value in watched.measure().items():
            rows.setdefault(name, []).append(value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched.warn(rows)
        watched.warn(rows)  # once is enough
    assert all(w.category is ConvergenceWarning for w in caught)
    return [str(w.message) for w in caught]


def test_all_is_well():
    sound = monitor(seen=1, unseen=0.8, generated=-1)
    measured = sound.measure()
    assert measured["diversity"] == pytest.approx(1, abs=0.1)
    assert measured["overfitting"] == pytest.approx(0.1)
    assert measured["sign"] == 1
    assert told(sound) == []


def test_a_generator_of_one_image_is_told_of():
    collapsed = monitor(
        seen=1,
        unseen=1,
        generated=-1,
        draw=lambda n, seed: random_images(1, seed).expand(n, -1, -1, -1),
    )
    assert collapsed.measure()["diversity"] == pytest.approx(0, abs=1e-4)
    assert told(collapsed, n=2) == []
    (text,) = told(collapsed)
    assert re.search(r"hardly differ.* 0\.00 .*r1_gamma", text)


def test_a_discriminator_that_knows_its_images_by_heart_is_told_of():
    overfitted = monitor(seen=3, unseen=-0.6, generated=-1)
    assert overfitted.measure()["overfitting"] == pytest.approx(0.9)
    (text,) = told(overfitted)
    assert re.search(r"90%.*by heart.*more images", text)


@pytest.mark.parametrize("generated", [1.0, 2.0])
def test_a_discriminator_that_tells_nothing_has_learned_nothing_by_heart(generated):
    undecided = monitor(seen=1, unseen=3, generated=generated)
    assert np.isnan(undecided.measure()["overfitting"])
    assert told(undecided) == []


def test_a_fit_of_many_images_is_watched():
    images = np.random.default_rng(0).integers(0, 256, (256, 1, 32, 32), dtype="uint8")
    tiny = {"channel_max": 8, "latent_dim": 8, "batch_size": 8, "random_state": 0}
    curve = GANDLFeaturizer(max_kimg=0.32, **tiny).fit(images).loss_curve_
    for name in ("diversity", "sign"):
        assert np.isfinite(curve[name]).sum() == 10
    few = GANDLFeaturizer(max_kimg=0.08, **tiny).fit(images[:255])
    assert "diversity" not in few.loss_curve_


def test_what_was_measured_long_ago_is_not_told_of():
    watched = monitor(seen=3, unseen=-0.6, generated=-1)
    # Between measurements, points of the curve have none.
    apart = [1.0, np.nan] * 10
    rows = {"diversity": apart, "overfitting": [0.9, np.nan] * 3 + [np.nan] * 14}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watched.warn(rows)
    rows["overfitting"] = [np.nan] * 14 + [0.9, np.nan] * 3
    with pytest.warns(ConvergenceWarning, match="by heart"):
        watched.warn(rows)


@pytest.mark.parametrize(
    ("diversity", "overfitting", "n"),
    [(0.35, 0.75, 0), (0.25, 0.75, 1), (0.35, 0.85, 1), (0.25, 0.85, 2)],
)
def test_from_where_on_a_game_is_called_unsound(diversity, overfitting, n):
    watched = monitor(seen=1, unseen=1, generated=-1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched.warn({"diversity": [diversity] * 3, "overfitting": [overfitting] * 3})
    assert len(caught) == n


def test_logits_that_differ_by_chance_tell_nothing():
    """Two standard errors of the difference of means: here 2 sqrt((1 + 1) / 16)."""
    spread = torch.tensor([-1.0, 1.0] * 8) * (15 / 16) ** 0.5  # of variance 1

    def measured(difference):
        def discriminator(x):
            logits = spread + difference * (x is SEEN or x is UNSEEN)
            return logits[:, None]

        trainer = SimpleNamespace(
            device=torch.device("cpu"),
            average=lambda n, rng: SEEN + 0,
            discriminator=discriminator,
        )
        return Monitor(trainer, SEEN, UNSEEN).measure()["overfitting"]

    assert np.isnan(measured(0.70))
    assert measured(0.72) == 0


def test_diversity_is_of_images_as_they_are_shown():
    """What lies beyond white or black is no difference."""
    glaring = monitor(
        seen=1, unseen=1, generated=-1, draw=lambda n, seed: 2 + torch.rand(n, 2, 8, 8)
    )
    assert glaring.measure()["diversity"] == 0

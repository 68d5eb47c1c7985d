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

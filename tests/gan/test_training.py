"""The training step: a stored trace, each part on its own, state."""

import json
import math
from pathlib import Path

import pytest
import torch

import gandl.gan._training
from gandl.gan import GANConfig, Trainer

TRACE = Path(__file__).with_name("trace.json")
TINY = {"n_channels": 2, "size": 32, "latent_dim": 8, "channel_max": 8}
TINY |= {"channel_base": 256, "adversarial_batch": 4}


def batch(n=8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(n, 2, 32, 32, generator=rng) / 2).clamp(-1, 1)


def trainer(seed=0, **options):
    return Trainer(GANConfig(**{**TINY, **options}), seed)


def trace(loss):
    """Losses of three steps, every penalty due, and a checksum of each weight."""
    network = trainer(loss=loss, r1_interval=2, path_length_interval=2)
    steps = [
        {name: value.item() for name, value in network.step(batch(seed=k)).items()}
        for k in range(3)
    ]
    sums = {name: w.abs().sum().item() for name, w in network.weights().items()}
    return {"steps": steps, "weights": sums}


@pytest.mark.parametrize("loss", ["logistic", "wgan-gp", "r3gan"])
def test_steps_follow_the_stored_trace(loss):
    """Any change of the arithmetic shows here.

    Where it is meant, store a new one: ``python tests/gan/test_training.py``.
    """
    stored, seen = json.loads(TRACE.read_text())[loss], trace(loss)
    for expected, step in zip(stored["steps"], seen["steps"], strict=True):
        assert step == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert seen["weights"] == pytest.approx(stored["weights"], rel=1e-3, abs=1e-3)


def test_same_seed_same_bits():
    first, second, other = trainer(0), trainer(0), trainer(1)
    for k in range(2):
        for network in (first, second, other):
            network.step(batch(seed=k))
    names = first.weights()
    assert all(torch.equal(first.weights()[n], second.weights()[n]) for n in names)
    assert not torch.equal(
        first.discriminator.conv.weight, other.discriminator.conv.weight
    )


def test_state_continues_bit_for_bit():
    first = trainer()
    first.step(batch())
    second = trainer(seed=9)
    second.load_state(first.state())
    for network in (first, second):
        for k in range(1, 6):
            network.step(batch(seed=k))
    for name, weight in first.weights().items():
        assert torch.equal(weight, second.weights()[name])
    assert first.augment_p == second.augment_p


def test_state_continues_where_augmentation_has_been_adapted_to_none():
    first, second = trainer(augment=None), trainer(augment=None, seed=9)
    for k in range(4):
        first._signs = [torch.tensor(-1.0)] * k  # it is sure of nothing
        first.step(batch(seed=k))
    assert first.augment_p == 0
    second.load_state(first.state())
    for network in (first, second):
        network.step(batch(seed=4))
    assert torch.equal(first.rng.get_state(), second.rng.get_state())


def changed(network, names):
    before = {n: [p.clone() for p in getattr(network, n).parameters()] for n in names}
    network.step(batch())
    return {
        n: any(
            not torch.equal(a, b)
            for a, b in zip(before[n], getattr(network, n).parameters(), strict=True)
        )
        for n in names
    }


NAMES = ("generator", "discriminator", "contrast_head", "average")


@pytest.mark.parametrize(
    ("options", "learning"),
    [
        ({}, NAMES),
        ({"contrast_learning_rate": 0.0}, ("generator", "discriminator", "average")),
        ({"adversarial_batch": 0}, ("discriminator", "contrast_head")),
    ],
)
def test_each_part_trains_what_it_is_to_train(options, learning):
    seen = changed(trainer(**options), NAMES)
    assert {name for name, moved in seen.items() if moved} == set(learning)


def test_the_generator_may_be_wider_than_the_discriminator():
    narrow, wide = (trainer(generator_width=k, channel_max=64) for k in (1, 2))
    assert wide.discriminator.block_widths == narrow.discriminator.block_widths
    widths = [len(t.generator.convs[-1].bias) for t in (narrow, wide)]
    assert widths == [8, 16]


@pytest.mark.parametrize("name", ["contrast", "discriminator", "generator"])
def test_a_step_that_is_not_finite_is_dropped(name):
    network, other = trainer(), trainer()
    network.step(batch())
    other.load_state(network.state())
    network._descend(name, sum(p.sum() for p in parameters(network, name)) * math.nan)
    assert network.dropped()[1] == [name]
    network.forget_dropped()
    assert network.dropped() == (0, [])
    ours, theirs = network.state(), other.state()
    for part in ("discriminator", "generator", "contrast_head"):
        for weight, same in zip(
            ours[part].values(), theirs[part].values(), strict=True
        ):
            assert torch.equal(weight, same)
    moments, same = (s["optimizers"][name]["state"] for s in (ours, theirs))
    for row, other_row in zip(moments.values(), same.values(), strict=True):
        assert all(torch.equal(row[key], other_row[key]) for key in row)


def parameters(network, name):
    return [p for g in network.optimizers[name].param_groups for p in g["params"]]


def test_images_that_are_not_finite_leave_statistics_finite():
    network = trainer()
    network.step(batch() * math.nan)
    n, names = network.dropped()
    assert n == 1
    assert {*names} == {"contrast", "discriminator"}
    assert network.is_finite()
    assert all(w.isfinite().all() for w in network.weights().values())


def test_weights_that_are_not_finite_are_seen():
    network = trainer()
    assert network.is_finite()
    with torch.no_grad():
        network.generator.constant[0, 0] = math.inf
    assert not network.is_finite()


def test_learning_rate_factor_of_zero_moves_nothing():
    network = trainer()
    network.learning_rate_factor = 0.0
    assert not any(changed(network, NAMES).values())


def test_learning_rates_rise_and_stay():
    network, rates = trainer(warm_up=4), []
    for k in range(6):
        network.step(batch(seed=k))
        groups = (o.param_groups[0] for o in network.optimizers.values())
        rates.append([group["lr"] / group["initial_lr"] for group in groups])
    expected = torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])[:, None]
    torch.testing.assert_close(torch.tensor(rates), expected.expand(-1, 3))


def test_contrast_alone_learns_to_tell_images_apart(monkeypatch):
    monkeypatch.setattr(gandl.gan._training, "DECORRELATION", 0.0)
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(8, 2, 1, 1, generator=rng).expand(-1, -1, 32, 32) * 2 - 1
    network = trainer(adversarial_batch=0)
    steps = [network.step(images.contiguous()) for _ in range(100)]
    losses = [losses["contrast"].item() for losses in steps]
    chance = math.log(15)
    assert losses[0] == pytest.approx(chance, rel=0.2)
    assert sum(losses[-20:]) / 20 < 0.8 * chance


def test_discriminator_learns_to_tell_real_from_generated():
    network = trainer(contrast_learning_rate=0.0, learning_rate=0.005)
    images = torch.ones(8, 2, 32, 32)
    losses = [network.step(images)["discriminator"].item() for _ in range(25)]
    undecided = 2 * math.log(2)
    assert min(losses) < undecided / 2 < losses[0]


def test_augmentation_rises_while_the_discriminator_is_sure():
    network = trainer(augment=None, augment_kimg=0.1)
    for sign, expected in ((1.0, 0.16), (0.0, 0.0)):
        network._signs = [torch.tensor(sign)] * 4
        network._adapt_augmentation(16)
        assert network.augment_p == pytest.approx(expected)
    fixed = trainer(augment=0.3)
    for k in range(4):
        fixed.step(batch(seed=k))
    assert fixed.augment_p == 0.3


def test_augmentation_is_adapted_without_waiting_for_a_gpu():
    here, there = (trainer(augment=None, augment_kimg=0.02) for _ in range(2))
    there.device = torch.device("meta")  # not waited for, in name
    for sign in (1.0, 1.0, 0.0, 0.0, 0.0):
        for network in (here, there):
            network._signs = [torch.tensor(sign)] * 4
            network._adapt_augmentation(8)
        assert there.augment_p == pytest.approx(here.augment_p, abs=1e-6)
    assert isinstance(there._augment_p, torch.Tensor)
    losses = there.step(batch())
    assert all(loss.isfinite() for loss in losses.values())
    assert isinstance(there.state()["augment_p"], float)


def test_constants_are_adjusted_for_lazy_penalties():
    network = trainer(learning_rate=0.002, path_length_interval=4)
    for name, k in (("generator", 4), ("discriminator", 16)):
        (group,) = network.optimizers[name].param_groups
        c = k / (k + 1)
        assert group["lr"] == pytest.approx(0.002 * c)
        assert group["betas"] == pytest.approx((0.0, 0.99**c))


def test_generator_average_follows_the_generator():
    network = trainer()
    for k in range(8):
        network.step(batch(seed=k))
    ours, theirs = network.average.constant, network.generator.constant
    start = trainer().generator.constant
    assert 0 < (ours - theirs).abs().mean() < (start - theirs).abs().mean()


@pytest.mark.parametrize("options", [{}, {"adversarial_batch": 0}])
def test_what_embeds_is_an_average_of_the_discriminator(options):
    network = trainer(average_discriminator=True, **options)
    start = network.discriminator.from_image.weight.clone()
    for k in range(40):
        network.step(batch(seed=k))
    ours = network.embedder.from_image.weight
    theirs = network.discriminator.from_image.weight
    assert 0 < (ours - theirs).abs().mean() < (start - theirs).abs().mean()
    assert torch.equal(network.weights()["discriminator.from_image.weight"], ours)
    assert torch.equal(network.embedder.mean_stddev, network.discriminator.mean_stddev)
    assert not any(p.requires_grad for p in network.embedder.parameters())
    with torch.no_grad():
        ours[0] = math.nan
    assert not network.is_finite()


def test_by_default_the_discriminator_itself_embeds():
    network = trainer()
    network.step(batch())
    assert network.embedder is network.discriminator


def test_the_average_is_part_of_the_state_and_of_what_weights_start():
    first, second, third = (trainer(average_discriminator=True) for _ in range(3))
    for k in range(40):
        first.step(batch(seed=k))
    second.load_state(first.state())
    for network in (first, second):
        network.step(batch(seed=40))
    weights = first.weights()
    assert all(torch.equal(weights[n], second.weights()[n]) for n in weights)
    third.load_weights(weights)
    name = "discriminator.conv.weight"
    assert torch.equal(third.discriminator.conv.weight, weights[name])
    assert torch.equal(third.weights()[name], weights[name])


def test_batches_that_the_statistic_does_not_divide():
    for n in (1, 2, 3, 5):
        losses = trainer().step(batch(n))
        assert all(loss.isfinite() for loss in losses.values())


def test_the_game_is_played_in_every_fourth_step(monkeypatch):
    moved = []
    approach = gandl.gan._training.approach
    monkeypatch.setattr(
        gandl.gan._training,
        "approach",
        lambda *of, **more: moved.append(of[2]) or approach(*of, **more),
    )
    network = trainer(adversarial_interval=4, r1_interval=2)
    losses = [network.step(batch()) for _ in range(9)]
    assert [k for k in range(9) if "generator" in losses[k]] == [0, 4, 8]
    assert [k for k in range(9) if "r1" in losses[k]] == [0, 8]
    assert all("contrast" in each for each in losses)
    assert moved == [32, 32, 32]  # images of four batches


def test_contrast_keeps_projections_from_repeating_each_other(monkeypatch):
    seen = []
    for penalty in (0.0, 1.0):

        def spied(z, penalty=penalty):
            assert z.shape == (16, 256)  # both views of each image
            return z.sum() * 0 + penalty

        monkeypatch.setattr(gandl.gan._training, "decorrelation_penalty", spied)
        seen.append(trainer().step(batch())["contrast"].item())
    assert seen[1] - seen[0] == pytest.approx(0.02, rel=1e-3)


def test_contrast_sees_each_band_of_detail_at_a_random_strength(monkeypatch):
    network, seen = trainer(detail=True, adversarial_batch=0), []
    trunk = network.discriminator.trunk

    def spied(images, *, strength):
        seen.append(strength)
        return trunk(images, strength=strength)

    monkeypatch.setattr(network.discriminator, "trunk", spied)
    for _ in range(40):
        network.step(batch())
    strengths = torch.stack(seen)  # steps, both views of each image, bands
    assert strengths.min() >= 0
    assert strengths.max() <= 2
    first, second = strengths[..., 0, 0].chunk(2, dim=1)
    by_itself = torch.cat([first, second], dim=-1).flatten(0, 1)
    assert by_itself.mean(0).tolist() == pytest.approx([1] * 4, abs=0.2)
    assert by_itself.std(0).tolist() == pytest.approx([3**-0.5] * 4, abs=0.1)
    others = by_itself.T.corrcoef() - torch.eye(4)
    assert others.abs().max() < 0.25


@pytest.mark.parametrize(("n", "plays"), [(5, 4), (6, 6), (7, 4), (8, 8), (2, 2)])
def test_groups_of_the_statistic_are_whole(monkeypatch, n, plays):
    """Of five images, each would be a group, and the statistic 0."""
    network, seen = trainer(adversarial_batch=n), []
    styles = network.generator.styles
    monkeypatch.setattr(
        network.generator,
        "styles",
        lambda n, *a, **k: seen.append(n) or styles(n, *a, **k),
    )
    network.step(batch())
    assert seen[0] == plays
    assert network.discriminator.mean_stddev > 1e-3


def test_real_and_generated_images_are_augmented_alike(monkeypatch):
    seen = []
    original = gandl.gan._training.adaptive_augment
    monkeypatch.setattr(
        gandl.gan._training,
        "adaptive_augment",
        lambda x, p, rng: seen.append((x.requires_grad, p)) or original(x, p, rng),
    )
    network = trainer(augment=0.3)
    given = []
    judge = network._update_discriminator
    network._update_discriminator = lambda *images: (
        given.append(images) or judge(*images)
    )
    network.step(batch())
    assert seen == [(True, 0.3), (False, 0.3)]  # generated, real
    real, _ = given[0]
    # What the discriminator sees is what came out: shifted by offsets, not as it was.
    assert real.min() < -1.001 or real.max() > 1.001


def test_augmentation_grows_where_mean_signs_are_above_six_tenths():
    for sign, expected in ((0.7, 0.16), (0.5, 0.0)):
        network = trainer(augment=None, augment_kimg=0.1)
        network._signs = [torch.tensor(sign)] * 4
        network._adapt_augmentation(16)
        assert network.augment_p == pytest.approx(expected)


def test_augmentation_is_adapted_by_the_images_of_four_steps(monkeypatch):
    network = trainer(augment=None, augment_kimg=1.0)
    monkeypatch.setattr(
        network,
        "_agree",
        lambda losses: network._signs.__setitem__(-1, torch.tensor(1.0)),
    )
    for k in range(4):
        network.step(batch(seed=k))
    assert network.augment_p == pytest.approx(4 * 4 / 1000)  # four images play a step


@pytest.mark.parametrize(
    ("ema_kimg", "n_images", "half_life"), [(0.1, 10**6, 25), (100.0, 1000, 50)]
)
def test_half_life_of_the_generator_s_average(ema_kimg, n_images, half_life):
    """In images at batch 32, at eight a quarter; early, a twentieth of those seen."""
    network = trainer(ema_kimg=ema_kimg)
    network.n_images = n_images
    with torch.no_grad():
        network.average.constant.zero_()
        network.generator.constant.fill_(1.0)
    network._update_average(8)
    expected = 1 - 0.5 ** (8 / half_life)
    assert network.average.constant.mean().item() == pytest.approx(expected, rel=1e-4)


def test_half_life_of_what_embeds_is_a_fiftieth_of_the_images_seen():
    network = trainer(average_discriminator=True)
    network.n_images = 1000
    with torch.no_grad():
        network.embedder.dense.weight.zero_()
        network.discriminator.dense.weight.fill_(1.0)
    network._update_embedder(20)
    assert network.embedder.dense.weight.mean().item() == pytest.approx(0.5, rel=1e-4)


def test_running_means_are_slow_after_the_first_steps():
    network = trainer()
    with torch.no_grad():
        network.generator.mapping.mean_style.zero_()
    network.generator.mapping.track(torch.ones(2, 8), 10**6)
    torch.testing.assert_close(
        network.generator.mapping.mean_style, torch.full((8,), 0.005)
    )
    x = torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    network.discriminator.mean_stddev.zero_()
    network.discriminator.track_stddev(x, 0)
    first = network.discriminator.mean_stddev.item()
    network.discriminator.mean_stddev.zero_()
    network.discriminator.track_stddev(x, 10**6)
    assert network.discriminator.mean_stddev.item() == pytest.approx(
        0.01 * first, rel=1e-4
    )


def test_augmentation_follows_the_signs_of_real_images():
    network = trainer(augment=None)
    signs = iter([1.0, -1.0])  # of real images, then of generated ones
    network.discriminator.head = lambda x: 0 * x.mean(dim=(1, 2, 3)) + next(signs)
    network._discriminator_loss(batch(4), batch(4, seed=1))
    assert [sign.item() for sign in network._signs] == [1.0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    traces = {loss: trace(loss) for loss in ("logistic", "wgan-gp", "r3gan")}
    TRACE.write_text(json.dumps(traces, indent=1) + "\n")

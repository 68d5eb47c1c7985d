"""The benchmarks run: on little data, for an instant."""

import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gandl import ImageCollection
from gandl.datasets import make_screen
from gandl.gan import GANConfig, Trainer
from gandl.gan._losses import path_length_penalty

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    scripts = ("embedding", "reading", "screen", "zero_shot")
    scripts += ("cost", "textbook", "training_speed")
    helpers = ("_textbook", "_stylegan2_pytorch", "_flops", "_profile")
    for name in ("_methods", "_screens", "_tasks", *helpers, *scripts):
        sys.modules.pop(name, None)


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def tiny_data(name):
    from _tasks import Data, classification

    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"label": ["a", "b"] * 24, "group": np.repeat(list("wxyz"), 12)}
    )
    images = ImageCollection.from_array(
        rng.integers(0, 255, (48, 1, 64, 64), dtype=np.uint8)
    )
    task = classification("tiny", table, "label", table["group"], n_folds=2)
    return Data(name, images, "dataset", [task], table["group"])


def test_embedding(tmp_path, monkeypatch, capsys):
    import embedding

    monkeypatch.setattr(embedding, "load", tiny_data)
    first, both = tmp_path / "first.json", tmp_path / "both.json"
    asked = ("--data", "mitocheck", "--minutes", "0.001", "--seeds", "1")
    asked += ("--precision", "float32")
    run(embedding, monkeypatch, *asked, "--methods", "untrained", "--out", first)
    changed = "gandl channel_max=8 adversarial_batch=4"
    methods = ("--methods", f"untrained,intensity statistics,{changed}")
    capsys.readouterr()
    run(embedding, monkeypatch, *asked, *methods, "--join", first, "--out", both)
    made = capsys.readouterr().out
    # What was made before is not made again, but stands in the table.
    assert f"{changed} 0 0." in made
    assert "untrained 0 0." not in made
    assert "+0.000 ± 0.000" in made  # over itself
    results = json.loads(both.read_text())
    assert {r["method"] for r in results} == set(methods[1].split(","))
    assert all(r["machine"].endswith(", float32") for r in results)
    assert {r["d"] for r in results if r["method"] == changed} == {2 * 4 * 8}
    again = ("--methods", "", "--data", "mitocheck", "--join")
    run(embedding, monkeypatch, *again, both, "--over", "untrained")
    told, over = capsys.readouterr().out.split("Over untrained\n")
    assert changed in told
    assert changed in over
    ours, theirs = ([{"folds": [{"a": a}, {"a": a + 2}]}] for a in (1.0, 0.5))
    assert embedding.gains(ours, theirs) == {"a": "+0.500 ± 0.000"}
    assert "Compare with care" not in over
    slower = [r | {"minutes": r["minutes"] + 9, "method": "paper"} for r in results]
    both.write_text(json.dumps(results + slower))
    run(embedding, monkeypatch, *again, both)
    assert "Compare with care, rows differ in minutes: " in capsys.readouterr().out
    run(embedding, monkeypatch, *again, both, "--until", "1")
    assert "paper" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="No method 'nothing'"):
        run(embedding, monkeypatch, "--methods", "nothing")


def test_checkpoints_of_embedding_are_of_minutes(monkeypatch):
    import embedding

    asked = ("--methods", "", "--data", "mitocheck", "--minutes", "120")
    monkeypatch.setattr(embedding._methods, "CHECKPOINTS", ())
    run(embedding, monkeypatch, *asked, "--checkpoints", "60", "12")
    assert embedding._methods.CHECKPOINTS == (0.1, 0.5, 1.0)


@pytest.mark.parametrize("intensity", ["image", "dataset"])
def test_stains_apart_are_scaled_as_they_are_together(intensity):
    import _methods
    import _tasks

    pixels = np.random.default_rng(0).integers(0, 4000, (6, 3, 64, 64), dtype="uint16")
    images = ImageCollection.from_array(pixels)
    data = _tasks.Data("tiny", images, intensity, [], pd.Series(range(6)))
    apart = _tasks._by_stain(data)
    assert apart.images.shape == (18, 1, 64, 64)
    found, expected = (
        next(_methods.statistics(d, 1.0, 0)).features.reshape(6, -1)
        for d in (apart, data)
    )
    # A statistic of three stains there, a stain's seven statistics here.
    expected = expected.reshape(6, 7, 3).swapaxes(1, 2).reshape(6, 21)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_compared_learns_at_a_rate_that_stays_and_embeds_by_an_average():
    from _methods import Descent

    module = torch.nn.Linear(1, 1, bias=False)
    start = module.weight.item()
    descent = Descent(module)
    rates, weights = [], []
    for _ in range(60):
        rates.append(descent.optimizer.param_groups[0]["lr"])
        descent.step(module.weight.sum())
        weights.append(module.weight.item())
    np.testing.assert_allclose(rates[:30], 2e-3 * np.arange(1, 31) / 30)
    np.testing.assert_allclose(rates[30:], 2e-3)
    # Behind what falls all the time, by about as much as its half-life is long.
    assert weights[-1] < descent.average.weight.item() < weights[-4] < start


def test_rank_correlation_of_scores_without_labels():
    import embedding

    common = {"data": "d", "task": "t", "method": "m", "Fréchet distance": 1.0}
    results = [
        common
        | {"replicate agreement": agreement, "Fréchet distance": distance}
        | {"folds": [{"AUC": auc - 0.1}, {"AUC": auc + 0.1}]}
        for agreement, distance, auc in zip(
            (0.1, 0.2, 0.3, 0.4), (4, 3, 2, 5), (0.5, 0.7, 0.6, 0.8), strict=True
        )
    ]
    lines = embedding.label_free(results, "d").splitlines()
    assert [line.split()[-1] for line in lines if " m " in line] == ["0.8", "-0.4"]
    assert embedding.label_free(results[:3], "d") == ""


def test_reading(tmp_path, monkeypatch, capsys):
    import reading

    out = tmp_path / "reading.json"
    few = ("--sites", "2", "--size", "128", "--width", "64", "--files", "plain", "LZW")
    run(reading, monkeypatch, *few, "--repetitions", "2", "--out", out)
    results = json.loads(out.read_text())["results"]
    assert [row["files"] for row in results] == ["plain", "LZW"]
    for row in results:
        assert 0 < min(row["waiting"]) < max(row["waiting"]) < 1
        assert min(row["reading"] + row["network"] + row["both"]) > 0
    assert "| LZW |" in capsys.readouterr().out


def test_zero_shot(tmp_path, monkeypatch, capsys):
    import zero_shot

    source, target = tiny_data("source").images, tiny_data("target")
    table = pd.DataFrame(
        {"label": ["a", "b", "c"] * 16, "group": np.repeat(list("wxyz"), 12)}
    )
    task = zero_shot.tell("tiny", table, "label", table["group"], n_folds=2)
    twice = ImageCollection.from_array(np.asarray(target.images).repeat(2, axis=1))
    stains = [[stain] for stain in twice.channels]
    pair = zero_shot._pair("target", source, twice, [task], stains=stains)
    monkeypatch.setattr(zero_shot, "load_pair", lambda name: pair)
    name, out, both = "screen -> screen", tmp_path / "first.json", tmp_path / "both"
    few = ("--pairs", name, "--minutes", "0.001", "--seeds", "1")
    statistics, small = (
        "target: intensity statistics",
        "channel_max=8 adversarial_batch=4",
    )
    source, own = f"source: gandl {small}", f"target: gandl {small}"
    first, rest = f"chance,{statistics}", f"{statistics},{source},{own}"
    run(zero_shot, monkeypatch, *few, "--methods", first, "--out", out)
    capsys.readouterr()
    run(zero_shot, monkeypatch, *few, "--methods", rest, "--join", out, "--out", both)
    made = capsys.readouterr().out
    assert f"{own} 0 0." in made
    assert f"{statistics} 0 0." not in made  # it was made before
    results = pd.DataFrame(json.loads(both.read_text()))
    assert set(results["method"]) == {"chance", statistics, source, own}
    d = results.groupby("method")["d"].first()
    # Two stains: side by side, or both in one network.
    assert d[source] == 2 * d[own]
    assert d[statistics] == 2 * 7
    labels = ("1 a class", "5 a class", "20 a class", "all")
    for folds in results["folds"]:
        assert len(folds) == 2
        assert list(folds[0]) == [
            f"{name}, {n}" for name in ("SVM", "prototypes") for n in labels
        ]
    run(zero_shot, monkeypatch, "--methods", "", "--join", both, "--pairs", name)
    assert source in capsys.readouterr().out
    with pytest.raises(SystemExit, match="No row 'nothing'"):
        run(zero_shot, monkeypatch, "--methods", "nothing")


def test_screen(tmp_path, monkeypatch, capsys):
    import _screens
    import screen

    out = tmp_path / "screen.json"
    small = {"n_sites": 1, "image_size": 64}
    smaller = lambda **how: make_screen(**how | small)  # noqa: E731
    monkeypatch.setattr(_screens, "make_screen", smaller)
    few = ("--compounds", "3", "--seeds", "1", "--jobs", "1")
    statistics = ("--methods", "intensity statistics")
    run(screen, monkeypatch, *few, *statistics, "--out", out)
    assert "toxic called hit" in capsys.readouterr().out
    compounds = pd.DataFrame(json.loads(out.read_text())["compounds"])
    assert len(compounds) == 3 * 2  # in each cell type
    assert set(compounds["call"]) <= {"hit", "toxic", "inactive"}
    run(screen, monkeypatch, "--seeds", "0", "--join", out, "--out", tmp_path / "all")
    both = json.loads((tmp_path / "all").read_text())
    assert both["compounds"] == json.loads(out.read_text())["compounds"]


SMALL = {"n_channels": 2, "size": 32, "latent_dim": 16, "n_mapping_layers": 2}
SMALL |= {"channel_base": 256, "channel_max": 16, "adversarial_batch": 8}
GAME = GANConfig(**SMALL, contrast_learning_rate=0.0, augment=0.0)


def test_the_textbook_network_is_gandls():
    import _textbook
    import textbook

    assert max(textbook.differences(GAME).values()) < 1e-5
    ours, theirs = Trainer(GAME, 0), _textbook.Trainer(GAME, "cpu")
    theirs.load(ours.generator, ours.discriminator)
    images = textbook.made_batch(GAME, 8)
    ws = ours.generator.styles(4, ours.rng).detach().requires_grad_()
    state = ours.rng.get_state()
    gradients = []
    for trainer, r1 in ((ours, ours._r1), (theirs, theirs.r1)):
        trainer.rng.set_state(state)
        made = trainer.generator.synthesize(ws, trainer.rng)
        if trainer is ours:
            zero, rng = torch.zeros(()), trainer.rng
            path, _ = path_length_penalty(made, ws, zero, rng)
        else:
            path = trainer.path_length(made, ws)
        (r1(images) + path).backward()
        networks = (trainer.generator, trainer.discriminator)
        gradients.append([p.grad for n in networks for p in n.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max())


@pytest.mark.parametrize("name", ["channels_last", "modulation of maps", "rest"])
def test_what_is_undone_for_comparison_changes_no_loss(name):
    import textbook

    # Draws other images; takes penalties in other steps, or another type.
    other = {"reuse of fakes", "lazy penalties", "bfloat16", "channels_last"}
    names = [*{*textbook.UNDONE} - other] if name == "rest" else [name]
    images = textbook.made_batch(GAME, 8)
    losses = []
    for undone in ([], names):
        with ExitStack() as stack:
            for each in undone:
                textbook.UNDONE[each][0](stack)
            trainer = Trainer(GAME, 0)
            losses.append([trainer.step(images), trainer.step(images)])
    for ours, theirs in zip(*losses, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-5)


def test_textbook(tmp_path, monkeypatch, capsys):
    import textbook

    out = tmp_path / "textbook.json"
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    asked = ("--quick", "--cases", "textbook", "fused optimiser")
    run(textbook, monkeypatch, *asked, "--out", out)
    record = json.loads(out.read_text())
    assert [case["case"] for case in record["cases"]] == [
        "gandl",
        "textbook",
        "fused optimiser",
    ]
    assert all(case["training"]["images_per_second"] > 0 for case in record["cases"])
    assert record["flops"]["plain step"] > 10 * record["flops"]["embedding"] > 0
    assert "| textbook |" in capsys.readouterr().out


def test_training_speed_profiles(monkeypatch):
    import training_speed

    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    tiny = "--size 32 --channel-base 128 --channel-max 8 --batch-size 8 --images 8"
    monkeypatch.setattr(sys, "argv", ["", *tiny.split(), "--threads", "1"])
    case = training_speed.Case("paper-narrow", 1, training_speed.parse())
    found = case.profile(1)
    parts = found["parts"]
    # Of a convolution, the backward pass has two products to one of the forward pass.
    forward, backward = (
        parts[f"adversarial loss{of}"]["gflop_per_image"] for of in ("", ", backward")
    )
    assert 1.8 * forward < backward < 2.1 * forward
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    for kinds in (found["step"], found["embedding"]):
        assert sum(kinds.values()) == pytest.approx(1)
        assert min(kinds["filter"], kinds["convolution, forward"]) > 0
    assert found["step"]["convolution, backward"] > 0
    assert found["embedding"]["convolution, backward"] == 0


def test_cost_counts_what_is_computed():
    import cost
    from torch.utils.flop_counter import FlopCounterMode

    config, _ = cost.preset("paper", 32)
    counted = cost.count_embedding(config, "penultimate", batch=2)
    network = config.discriminator(torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network.embed(torch.zeros(1, 5, 32, 32), "penultimate")
    # PyTorch's count has the filters, which are few multiplications.
    assert counted.half == pytest.approx(flops.get_total_flops(), rel=0.01)
    step = cost.count_step(config, 4)
    # The discriminator sees three batches, and generating takes as much as seeing; a
    # backward pass is two forward ones.
    assert 8 < step.half / 4 / counted.half < 20
    # Penalties are in it, and launches do not depend on the batch.
    plain = cost.count_step(replace(config, r1_gamma=0.0, path_length_weight=0.0), 4)
    assert plain.half < step.half
    assert cost.count_step(config, 8).ops == pytest.approx(step.ops, rel=0.05)


def test_cost(tmp_path, monkeypatch, capsys):
    import cost

    rng = np.random.default_rng(0)
    rates = np.array([3.0, 0.5, 3e-5])
    terms = rng.uniform(0.5, 2, (20, 3)) * [0.1, 0.2, 2000]
    steps = [("AB"[k % 2], k % 3, row, row @ rates) for k, row in enumerate(terms)]
    np.testing.assert_allclose(cost.fit(steps), rates)
    # What follows the model is foretold from any half of it.
    for found in cost.errors(steps).values():
        assert np.abs(found).max() < 1e-6
    monkeypatch.setattr(cost, "published_steps", lambda: steps)
    out = tmp_path / "cost.json"
    run(cost, monkeypatch, "--quick", "--price-h100", "7", "--out", out)
    report = json.loads(out.read_text())
    assert report["rates"] == pytest.approx(rates.tolist())
    by_name = {(row["preset"], row["on"]): row for row in report["rows"]}
    short, long = (
        by_name[f"default, 32 px, {kimg} kimg", "8 H100"] for kimg in ("40", "5,000")
    )
    assert long["training, h"][0] == pytest.approx(125 * short["training, h"][0])
    assert short["training, $"][0] == pytest.approx(56 * short["training, h"][0])
    assert "8 H100" in capsys.readouterr().out

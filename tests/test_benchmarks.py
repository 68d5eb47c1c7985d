"""The benchmarks run: on little data, for an instant."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gandl import ImageCollection

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("_methods", "_screens", "_tasks", "embedding", "reading", "screen"):
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
    assert {r["d"] for r in results if r["method"] == changed} == {2 * 4 * 8}
    again = ("--methods", "", "--data", "mitocheck", "--join")
    run(embedding, monkeypatch, *again, both)
    told = capsys.readouterr().out
    assert changed in told
    assert "Compare with care" not in told
    slower = [r | {"minutes": 9 * r["minutes"], "method": "paper"} for r in results]
    both.write_text(json.dumps(results + slower))
    run(embedding, monkeypatch, *again, both)
    assert "Compare with care, rows differ in minutes: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="No method 'nothing'"):
        run(embedding, monkeypatch, "--methods", "nothing")


def test_reading(tmp_path, monkeypatch, capsys):
    import reading

    out = tmp_path / "reading.json"
    few = ("--sites", "2", "--size", "128", "--width", "64", "--files", "plain", "LZW")
    run(reading, monkeypatch, *few, "--out", out)
    results = json.loads(out.read_text())["results"]
    assert [row["files"] for row in results] == ["plain", "LZW"]
    for row in results:
        assert 0 < row["waiting"] < 1
        assert min(row["reading"], row["network"], row["both"]) > 0
    assert "| LZW |" in capsys.readouterr().out


def test_screen(tmp_path, monkeypatch, capsys):
    import screen

    out = tmp_path / "screen.json"
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

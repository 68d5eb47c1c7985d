"""The main job, as `make demo` runs it, on a small budget."""

import functools
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import gandl._presets

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


@pytest.fixture
def demo(monkeypatch):
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", module)  # its dataclass looks itself up
    spec.loader.exec_module(module)
    tiny = {"channel_max": 8, "latent_dim": 8, "batch_size": 8, "n_views": 2}
    default = gandl._presets.PRESETS["default"] | tiny
    monkeypatch.setitem(gandl._presets.PRESETS, "default", default)
    small = {"n_controls": 4, "n_sites": 1, "n_compounds": 1, "image_size": 64}
    make_screen = module.make_screen
    monkeypatch.setattr(
        module, "make_screen", lambda **options: make_screen(**{**options, **small})
    )
    return functools.partial(run, module, monkeypatch)


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(
        sys, "argv", ["demo.py", "--minutes", "0.01", *map(str, arguments)]
    )
    module.main()


def check_output(out):
    table = json.loads((out / "table.json").read_text())["table"]
    assert {"gandl", "gandl, untrained", "intensity statistics"} <= set(table)
    for row in table.values():
        mean, spread = row["balanced accuracy"].split(" ± ")
        assert 0 <= float(mean) <= 1
        assert 0 <= float(spread) <= 1
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    return table


def test_simulated_screen(demo, tmp_path, capsys):
    demo("--out", tmp_path, "--plain")
    table = check_output(tmp_path)
    assert "gandl, plain GAN" in table
    printed = capsys.readouterr().out
    assert str(tmp_path / "picture.png") in printed
    assert len(list((tmp_path / "screen").rglob("*.tif"))) == (4 * 8 + 12) * 3
    assert str(tmp_path / "report.html") in printed
    assert "compound-1" in (tmp_path / "report.html").read_text(encoding="utf-8")


def write_folder(folder, **columns):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"path": [f"{k}.tif" for k in range(12)], **columns})
    for path in table["path"]:
        tifffile.imwrite(folder / path, rng.integers(0, 255, (40, 40), dtype="uint8"))
    table.to_csv(folder / "metadata.csv", index=False)


def test_folder_of_ones_own(demo, tmp_path):
    columns = {"plate": [1, 2, 3] * 4, "treatment": ["none", "drug"] * 6}
    write_folder(tmp_path, **columns)
    demo("--data", tmp_path, "--out", tmp_path / "out", "--label", "treatment")
    check_output(tmp_path / "out")


def test_columns_that_are_not_there_are_named(demo, tmp_path):
    write_folder(tmp_path, plate=[1] * 12, drug=["a", "b"] * 6)
    with pytest.raises(SystemExit, match=r"'drug'.*--label"):
        demo("--data", tmp_path, "--out", tmp_path / "out")
    write_folder(tmp_path, plate=[1] * 12, compound=["a", "b"] * 6)
    with pytest.raises(SystemExit, match="Choose the column to predict"):
        demo("--data", tmp_path, "--out", tmp_path / "out")
    write_folder(tmp_path, plate=[1] * 12, drug=["a", "b"] * 6)
    with pytest.raises(SystemExit, match=r"lacks .'dose'"):
        demo("--data", tmp_path, "--out", tmp_path / "out", "--label", "dose")
    with pytest.raises(SystemExit, match="1 group"):
        demo("--data", tmp_path, "--out", tmp_path / "out", "--label", "drug")

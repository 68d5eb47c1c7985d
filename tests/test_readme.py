"""The code of the README runs, block after block, as a reader would run it."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gandl._presets
import gandl.datasets
from gandl.datasets import make_screen

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def small_budget(monkeypatch):
    """The same code with a network and a budget for tests."""
    tiny = {"channel_max": 8, "latent_dim": 8, "batch_size": 8, "n_views": 2}
    default = gandl._presets.PRESETS["default"] | tiny
    monkeypatch.setitem(gandl._presets.PRESETS, "default", default)
    smaller = partial(make_screen, image_size=64)
    monkeypatch.setattr(gandl.datasets, "make_screen", smaller)


def test_code_of_the_readme(small_budget, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = README.read_text("utf-8").replace("max_minutes=5", "max_kimg=0.032")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code) >= 6
    write_screen(tmp_path)
    space = {}
    for block in code:
        exec(compile(block, str(README), "exec"), space)
    assert space["mine"].shape == (2, 3, 64, 64)
    assert list(space["mine"].metadata) == ["plate", "well", "site", "compound"]
    assert space["scores"].shape == (2,)
    assert space["search"].best_params_["svm__C"] in (0.0001, 0.001, 0.01)
    assert space["by_layer"].best_params_["gandl__features"] in ("pooled", 8, 4)
    assert space["generated"].shape == (16, 3, 64, 64)
    assert np.isfinite(space["generated"]).all()
    assert np.isfinite(space["by_replicates"].best_score_)
    assert set(space["classifier"].classes_) == {"round", "spindle", "colony"}
    assert set(space["table"]["compound"]) == set(space["compounds"]["compound"])


def write_screen(folder):
    """A screen in the folder, and under the names, that the README speaks of."""
    made = folder / "made"
    make_screen(n_plates=1, n_compounds=0, n_controls=1, image_size=64, folder=made)
    (made / "images/cobblestone-1").rename(folder / "my_screen")
    wells = {path.name[:3] for path in (folder / "my_screen").glob("*/*.tif")}
    rows = [f"Plate1,{well},remdesivir" for well in sorted(wells)]
    plate_map = "\n".join(["plate,well,compound", *rows])
    (folder / "my_screen/plate_map.csv").write_text(plate_map)

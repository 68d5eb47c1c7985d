"""The pages of the gallery run, as they stand."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

PAGES = sorted((Path(__file__).parents[1] / "examples").glob("plot_*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_the_gallery(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    runpy.run_path(str(page))
    assert plt.get_fignums()  # a page has a picture
    plt.close("all")
    assert not list(tmp_path.iterdir())  # and leaves nothing behind

"""Two dimensions of an embedding."""

import sys
import types

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from gandl.plotting import EmbeddingDisplay


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(30, 6)) * [9, 5, 1, 1, 1, 1]


def test_principal_components(embeddings):
    display = EmbeddingDisplay.from_predictions(embeddings)
    pca = PCA(2).fit(embeddings)
    np.testing.assert_allclose(
        abs(display.ax_.collections[0].get_offsets()),
        abs(pca.transform(embeddings)),
        atol=1e-10,
    )
    share = pca.explained_variance_ratio_[0]
    assert display.ax_.get_xlabel() == f"PC 1 ({share:.0%})"


def test_from_estimator(embeddings):
    scaler = StandardScaler().fit(embeddings)
    display = EmbeddingDisplay.from_estimator(scaler, embeddings)
    expected = EmbeddingDisplay.from_predictions(scaler.transform(embeddings))
    np.testing.assert_array_equal(display.points, expected.points)


def test_categories_are_told_apart(embeddings):
    labels = np.array([f"t{k % 10:02}" for k in range(30)], dtype=object)
    labels[5] = None
    display = EmbeddingDisplay.from_predictions(embeddings, labels, title="compound")
    legend = display.ax_.get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["none", *(f"t{k:02}" for k in range(10))]
    assert legend.get_title().get_text() == "compound"
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes())
        for c in display.ax_.collections
    }
    assert len(looks) == 11
    assert sum(len(c.get_offsets()) for c in display.ax_.collections) == 30


def test_names_with_an_underscore_are_in_the_legend(embeddings):
    labels = np.repeat(np.array(["_mock", "taxol", "_nolegend_"], dtype=object), 10)
    display = EmbeddingDisplay.from_predictions(embeddings, labels)
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert [text.strip() for text in texts] == ["_mock", "_nolegend_", "taxol"]


def test_numbers_have_a_scale(embeddings):
    display = EmbeddingDisplay.from_predictions(embeddings, np.arange(30), title="dose")
    assert display.ax_.get_legend() is None
    assert display.figure_.axes[-1].get_ylabel() == "dose"


def test_umap_where_installed(embeddings, monkeypatch):
    class UMAP:
        def __init__(self, *, random_state, n_jobs):
            assert random_state == 0

        def fit_transform(self, X):
            return X[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    display = EmbeddingDisplay.from_predictions(embeddings, method="umap")
    np.testing.assert_array_equal(display.points, embeddings[:, :2])
    assert display.ax_.get_ylabel() == "UMAP 2"
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        EmbeddingDisplay.from_predictions(embeddings, method="umap")


def test_errors(embeddings):
    table, labels = pd.DataFrame(embeddings), pd.Series(range(len(embeddings)))
    with pytest.raises(
        ValueError, match="labels has the rows of embeddings in another"
    ):
        EmbeddingDisplay.from_predictions(table, labels[::-1])
    with pytest.raises(ValueError, match="got 'tsne'"):
        EmbeddingDisplay.from_predictions(embeddings, method="tsne")
    with pytest.raises(ValueError, match="inconsistent numbers"):
        EmbeddingDisplay.from_predictions(embeddings, ["a"])
    with pytest.raises(ValueError, match="minimum of 3"):
        EmbeddingDisplay.from_predictions(embeddings[:2])


@pytest.mark.parametrize("dtype", ["float64", "Float64"])
def test_numbers_that_are_missing_are_drawn(embeddings, dtype):
    labels = pd.array(np.arange(30.0), dtype=dtype)
    labels[[3, 4]] = pd.NA if dtype == "Float64" else np.nan
    display = EmbeddingDisplay.from_predictions(embeddings, labels, title="dose")
    known, missing = display.ax_.collections
    assert (len(known.get_offsets()), len(missing.get_offsets())) == (28, 2)
    assert known.get_array().max() == 29
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == [
        "none"
    ]


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["P1", "P2", "P10"], ["P1", "P2", "P10"]),
        (["0.3", "0.0095", "10"], ["0.0095", "0.3", "10"]),
        (["1_10", "1_2", "2_1"], ["1_2", "1_10", "2_1"]),
        ([True, False, True], ["False", "True"]),
        (
            pd.Categorical(["max", "low", "mid"], ["low", "mid", "max"], ordered=True),
            ["low", "mid", "max"],
        ),
    ],
)
def test_order_of_categories(embeddings, labels, order):
    display = EmbeddingDisplay.from_predictions(embeddings[:3], labels)
    legend = display.ax_.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == order


def test_a_long_legend_has_columns_and_leaves_the_map_its_room():
    points = np.random.default_rng(0).normal(size=(120, 3))
    display = EmbeddingDisplay.from_predictions(
        points, [f"c{k % 50}" for k in range(120)]
    )
    display.figure_.canvas.draw()
    inside = display.figure_.bbox
    for text in display.ax_.get_legend().get_texts():
        extent = text.get_window_extent()
        assert inside.contains(*extent.min)
        assert inside.contains(*extent.max)
    assert display.ax_.bbox.height > 0.7 * inside.height

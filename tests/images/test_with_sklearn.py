"""Every tool of scikit-learn gives with a collection what it gives with the array."""

import os

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_predict,
    cross_val_score,
    learning_curve,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import _safe_indexing, resample, shuffle

from gandl.images import ImageCollection


def flatten(X):
    images = np.asarray(X)
    return images.reshape(len(images), -1) / 60_000


def pipeline(memory=None):
    return make_pipeline(
        FunctionTransformer(flatten),
        PCA(4, random_state=0),
        LogisticRegression(),
        memory=memory,
    )


@pytest.fixture
def X(folder, table):
    return ImageCollection.from_table(table, root=folder)


@pytest.fixture
def y(pixels):
    return np.arange(len(pixels)) % 2


def test_train_test_split(X, y, pixels):
    parts = train_test_split(X, pixels, y, random_state=0, stratify=y)
    for k in (0, 1):
        assert isinstance(parts[k], ImageCollection)
        np.testing.assert_array_equal(np.asarray(parts[k]), parts[2 + k])


@pytest.mark.parametrize("indices", [3, [1, 5], (1, 5), slice(2, 9, 3), [True] * 24])
def test_safe_indexing(X, pixels, indices):
    np.testing.assert_array_equal(
        np.asarray(_safe_indexing(X, indices)), _safe_indexing(pixels, indices)
    )


def test_shuffle_and_resample(X, pixels):
    for tool in (shuffle, resample):
        lazy, eager = tool(X, pixels, random_state=0)
        assert isinstance(lazy, ImageCollection)
        np.testing.assert_array_equal(np.asarray(lazy), eager)


def test_cross_validation(X, y, pixels, table):
    kwargs = {"groups": table["plate"], "cv": GroupKFold(3)}
    for tool in (cross_val_score, cross_val_predict):
        np.testing.assert_array_equal(
            tool(pipeline(), X, y, **kwargs), tool(pipeline(), pixels, y, **kwargs)
        )


def test_learning_curve(X, y, pixels):
    kwargs = {"cv": 3, "train_sizes": [0.5, 1.0], "shuffle": True, "random_state": 0}
    lazy = learning_curve(pipeline(), X, y, **kwargs)
    eager = learning_curve(pipeline(), pixels, y, **kwargs)
    for a, b in zip(lazy, eager, strict=True):
        np.testing.assert_array_equal(a, b)


def test_grid_search_in_processes(X, y, pixels):
    grid = {"logisticregression__C": [0.01, 1.0]}
    searches = [
        GridSearchCV(pipeline(), grid, cv=3, n_jobs=2).fit(images, y)
        for images in (X, pixels)
    ]
    for key in ("mean_test_score", "std_test_score"):
        lazy, eager = (search.cv_results_[key] for search in searches)
        np.testing.assert_array_equal(lazy, eager)
    lazy, eager = (
        search.predict_proba(images)
        for search, images in zip(searches, (X, pixels), strict=True)
    )
    np.testing.assert_array_equal(lazy, eager)


def test_pipeline_cache_notices_a_touched_file(X, y, folder, table, tmp_path):
    log = folder / "log.txt"

    def fits():
        return log.read_text().count("fit") if log.exists() else 0

    model = make_pipeline(
        FunctionTransformer(logged_flatten, kw_args={"log": str(log)}),
        LogisticRegression(),
        memory=str(tmp_path / "cache"),
    )
    model.fit(X, y)
    assert fits() == 1
    model.fit(ImageCollection.from_table(table, root=folder), y)
    assert fits() == 1
    os.utime(folder / table["path"][5], ns=(1, 1))
    model.fit(ImageCollection.from_table(table, root=folder), y)
    assert fits() == 2


def logged_flatten(X, log):
    with open(log, "a") as file:
        file.write("fit\n")
    return flatten(X)

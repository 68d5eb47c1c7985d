"""Processes and threads: searches end, forks work, processors are shared."""

import multiprocessing
import subprocess
import sys

import joblib
import numpy as np
import pytest
import skops.io
import torch
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from gandl import GANDLFeaturizer


def tiny(**changes):
    network = {"channel_max": 8, "latent_dim": 8, "precision": "float32"}
    budget = {"max_kimg": 0.048, "batch_size": 8, "random_state": 0}
    return GANDLFeaturizer(**network, **budget, **changes)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 4096, (24, 2, 32, 32), dtype="uint16")


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_search_in_parallel_ends_with_the_scores_of_one_in_a_row(images, backend):
    y = np.arange(24) % 2
    model = Pipeline([("gandl", tiny()), ("classify", LogisticRegression())])
    grid = {"gandl__features": ["pooled", 4]}
    search = GridSearchCV(model, grid, cv=2)
    expected = search.fit(images, y).cv_results_["mean_test_score"]
    with joblib.parallel_config(backend):
        found = search.set_params(n_jobs=2).fit(images, y).cv_results_
    # The number of threads sets the order of sums: a sample at the border may differ.
    np.testing.assert_allclose(found["mean_test_score"], expected, atol=0.1)


def test_two_processes_share_the_processors():
    counts = Parallel(n_jobs=2)(delayed(threads)() for _ in range(2))
    assert max(counts) <= max(1, joblib.cpu_count() // 2)


def threads():
    return torch.get_num_threads()


FORKED = """
import multiprocessing, numpy as np, torch
from gandl import GANDLFeaturizer
torch.set_num_threads(2)
images = np.random.default_rng(0).integers(0, 255, (32, 1, 64, 64), dtype="uint8")
fitted = GANDLFeaturizer(max_kimg=0.032, random_state=0).fit(images)
expected = fitted.transform(images)
fork = multiprocessing.get_context("fork")
answers = fork.Queue()
process = fork.Process(target=lambda: answers.put(fitted.transform(images)))
process.start()
np.testing.assert_allclose(answers.get(timeout=100), expected, rtol=1e-2, atol=1e-2)
"""


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork here"
)
def test_a_process_forked_after_use_works():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=200)


def test_joblib_maps_it_into_memory(images, tmp_path):
    fitted = tiny().fit(images)
    joblib.dump(fitted, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert any(isinstance(w, np.memmap) for w in mapped.weights_.values())
    np.testing.assert_array_equal(mapped.transform(images), fitted.transform(images))


def test_skops_names_what_it_holds_and_loads_it(images):
    fitted = tiny().fit(images)
    data = skops.io.dumps(fitted)
    unknown = skops.io.get_untrusted_types(data=data)
    assert all(name.startswith("gandl.") for name in unknown), unknown
    again = skops.io.loads(data, trusted=unknown)
    np.testing.assert_array_equal(again.transform(images), fitted.transform(images))

"""What was saved is what was fitted; what is no model is refused by name."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save
from sklearn.exceptions import NotFittedError

import gandl
from gandl import GANDLFeaturizer, ImageCollection
from gandl._storage import read_safetensors, write_safetensors


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 4096, size=(8, 2, 32, 40))
    return ImageCollection.from_array(
        pixels.astype(np.uint16), channels=["dna", "actin"]
    )


@pytest.fixture(scope="module")
def fitted(images):
    return GANDLFeaturizer(
        max_kimg=0.016, batch_size=8, channel_max=8, latent_dim=8, random_state=0
    ).fit(images)


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "modèle.safetensors")
    return tmp_path / "modèle.safetensors"


def test_everything_that_was_fitted_comes_back(fitted, images, path):
    again = GANDLFeaturizer.load(path)
    assert again.get_params() == fitted.get_params()
    ours, theirs = vars(fitted), vars(again)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_equal(theirs[name], ours[name])
    np.testing.assert_array_equal(again.transform(images), fitted.transform(images))
    np.testing.assert_array_equal(
        again.generate(3, random_state=0), fitted.generate(3, random_state=0)
    )
    again.partial_fit(images)


def test_in_a_new_process(fitted, images, path, tmp_path):
    np.save(tmp_path / "images.npy", np.asarray(images))
    code = (
        "import sys, numpy as np, torch; torch.set_num_threads(1)\n"
        "from gandl import GANDLFeaturizer\n"
        "model = GANDLFeaturizer.load(sys.argv[1])\n"
        "np.save(sys.argv[3], model.transform(np.load(sys.argv[2])))"
    )
    out = tmp_path / "out.npy"
    arguments = [path, tmp_path / "images.npy", out]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
    np.testing.assert_array_equal(np.load(out), fitted.transform(images))


def test_flat_rows_of_a_table_and_a_random_state_that_is_no_number(tmp_path):
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(8, 2 * 32 * 32)))
    rows.columns = [f"p{k}" for k in rows]
    model = GANDLFeaturizer(
        max_kimg=0,
        intensity="image",
        image_shape=(2, 32, 32),
        channel_max=8,
        latent_dim=8,
        random_state=np.random.RandomState(0),
    ).fit(rows)
    model.save(tmp_path / "model")
    again = GANDLFeaturizer.load(tmp_path / "model")
    assert again.random_state is None
    assert again.image_shape == (2, 32, 32)
    assert again.intensity_range_ is None
    np.testing.assert_array_equal(again.transform(rows), model.transform(rows))


def test_nothing_is_overwritten_unless_told(fitted, path):
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        fitted.save(path)
    assert path.read_bytes() == before
    fitted.save(path, overwrite=True)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_is_no_model(fitted, path, tmp_path, monkeypatch):
    with pytest.raises(NotFittedError):
        GANDLFeaturizer().save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError):
        GANDLFeaturizer.load(tmp_path / "new")
    other = tmp_path / "other"
    data = path.read_bytes()
    for broken in (b"", b"well,compound\nA01,DMSO\n", data[: len(data) // 2]):
        other.write_bytes(broken)
        with pytest.raises(ValueError, match="other' is no safetensors file"):
            GANDLFeaturizer.load(other)
    other.write_bytes(save({"x": np.zeros(2)}))
    with pytest.raises(ValueError, match="not written by gandl"):
        GANDLFeaturizer.load(other)
    write_safetensors(other, load(data), {"format": 99, "version": "9.0"})
    with pytest.raises(ValueError, match=r"format 99, of gandl 9\.0; gandl .* reads 3"):
        GANDLFeaturizer.load(other)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"gandl\[hub\]"):
        GANDLFeaturizer.load(path)


def test_every_flipped_byte_and_every_cut_is_noticed(fitted, tmp_path):
    fitted.save(tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    rng, broken = np.random.default_rng(0), tmp_path / "broken.safetensors"
    # Half of the places in the header, which is the smaller part.
    header = 8 + int.from_bytes(data[:8], "little")
    places = np.concatenate([rng.integers(0, k, 350) for k in (header, len(data))])
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        broken.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"broken\.safetensors' (is|was|has)"):
            GANDLFeaturizer.load(broken)
    for length in rng.integers(0, len(data), 300):
        broken.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"broken\.safetensors' (is|was|has)"):
            GANDLFeaturizer.load(broken)


def test_weights_of_another_shape_or_name_are_refused(path, tmp_path):
    arrays, header = read_safetensors(path)
    name = "weights.discriminator.dense.weight"
    other = tmp_path / "other"
    write_safetensors(other, arrays | {name: arrays[name][:-1]}, header)
    with pytest.raises(ValueError, match=r"discriminator\.dense\.weight' of shape \(7"):
        GANDLFeaturizer.load(other)
    write_safetensors(other, arrays | {"weights.more": np.zeros(1)}, header)
    with pytest.raises(ValueError, match=r"'more' of shape \(1,\).* have None"):
        GANDLFeaturizer.load(other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channel_max", 2**20),
        ("n_mapping_layers", 10**9),
        ("n_channels", 10**12),
        ("latent_dim", 2**62),
        ("latent_dim", -1),
        ("size", 2**60),
        ("size", "64"),
        ("size", None),
    ],
)
def test_shapes_that_were_tampered_with_take_no_memory(path, tmp_path, name, value):
    arrays, header = read_safetensors(path)
    header["config"][name] = value
    other = tmp_path / "other"
    write_safetensors(other, arrays, header)
    with limited_memory(), pytest.raises(ValueError, match=r"other' (is no|has|names)"):
        GANDLFeaturizer.load(other)


@contextmanager
def limited_memory():
    """No more memory than two GiB beside what this process has."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**31
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_loading_sets_no_other_attribute(path, tmp_path):
    arrays, header = read_safetensors(path)
    header["attributes"]["transform"] = "mine"
    write_safetensors(tmp_path / "other", arrays, header)
    assert callable(GANDLFeaturizer.load(tmp_path / "other").transform)


STORED = Path(__file__).with_name("models")


@pytest.mark.parametrize("stored", sorted(STORED.glob("*.safetensors")), ids=str)
def test_models_of_earlier_versions_stay_loadable(stored):
    """One a released version, and of this one: ``python tests/test_storage.py``."""
    expected = np.load(stored.with_suffix(".npy"))
    embedded = GANDLFeaturizer.load(stored).transform(_some_images())
    np.testing.assert_allclose(embedded, expected, rtol=1e-3, atol=1e-3)


def test_there_is_a_stored_model():
    assert list(STORED.glob("*.safetensors"))


def _some_images():
    return np.random.default_rng(7).integers(0, 4096, (3, 2, 32, 32), dtype="uint16")


if __name__ == "__main__":
    made = GANDLFeaturizer(
        max_kimg=0.08,
        batch_size=8,
        channel_max=8,
        latent_dim=8,
        precision="float32",
        random_state=0,
    ).fit(np.concatenate([_some_images()] * 4))
    model = STORED / f"{gandl.__version__}.safetensors"
    made.save(model, overwrite=True)
    np.save(model.with_suffix(".npy"), made.transform(_some_images()))

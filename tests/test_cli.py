"""Each command does what the estimators do, and loses nothing."""

import argparse
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import nullcontext

import joblib
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

import gandl._presets
from gandl import GANDLFeaturizer, ImageCollection
from gandl._cli_arguments import make_parser
from gandl._cli_images import collect, with_plate_range
from gandl._cli_wells import _check_unit, check_sites
from gandl.cli import main
from gandl.datasets import make_screen
from gandl.gan import Trainer
from gandl.images._illumination import illumination_groups
from gandl.profiles import (
    feature_columns,
    make_profiles,
    read_profiles,
    write_profiles,
)

PATTERN = "images/{experiment}/Plate{plate}/{well}_s{site}_w{channel}.tif"
CONTROLS = [
    *("--control", "disease_condition"),
    *("--negative", "healthy", "--positive", "infected"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen") / "plates"
    make_screen(
        n_compounds={"rescue": 1, "inert": 1},
        n_controls=6,
        n_sites=2,
        image_size=64,
        folder=folder,
        random_state=0,
    )
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    tiny = {"channel_max": 8, "latent_dim": 8, "batch_size": 8}
    default = gandl._presets.PRESETS["default"] | tiny
    monkeypatch.setitem(gandl._presets.PRESETS, "default", default)


def images_of(folder):
    return [str(folder), "--pattern", PATTERN, "--channels", "1=DNA", "3=actin"]


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def model(folder, tmp_path):
    out = tmp_path / "model.safetensors"
    assert run("fit", *images_of(folder), "--minutes", 0.005, "--out", out) == 0
    return out


def save_ome(path, pixels):
    """Write an image of DNA and actin (C, Z, H, W)."""
    if path.suffix == ".zarr":
        group = zarr.create_group(path)
        group.create_array("0", data=pixels)
        axes = [{"name": name} for name in "czyx"]
        levels = {"axes": axes, "datasets": [{"path": "0"}]}
        names = {"channels": [{"label": "DNA"}, {"label": "actin"}]}
        ome = {"version": "0.5", "multiscales": [levels], "omero": names}
        group.attrs["ome"] = ome
    else:
        channels = {"axes": "CZYX", "Channel": {"Name": ["DNA", "actin"]}}
        tifffile.imwrite(path, pixels, metadata=channels)


@pytest.mark.parametrize("kind", ["zarr", "ome.tif"])
def test_a_folder_of_ome_files(kind, model, tmp_path):
    folder = tmp_path / "plates"
    folder.mkdir()
    for name in ("B", "A"):
        save_ome(folder / f"{name}.{kind}", np.full((2, 1, 64, 64), 7, "uint16"))
    out = tmp_path / "images.csv"
    assert run("embed", model, folder, "--channels", "DNA", "actin", "--out", out) == 0
    found = read_profiles(out)
    column = "Metadata_store" if kind == "zarr" else "Metadata_file"
    assert found[column].tolist() == [f"A.{kind}", f"B.{kind}"]


@pytest.mark.parametrize("stray", ["overview/all.ome.tif", "masks/A01.zarr"])
def test_ome_files_beside_plates_are_not_the_screen(stray, folder, model, tmp_path):
    copy = tmp_path / "plates"
    shutil.copytree(folder / "images", copy / "images")
    (copy / stray).parent.mkdir()
    save_ome(copy / stray, np.full((2, 1, 64, 64), 7, "uint16"))
    options = make_parser().parse_args(["embed", str(model), str(copy), "--out", "x"])
    plates = ImageCollection.from_folder(folder, PATTERN)
    assert collect(options)[0].shape == plates.shape


@pytest.mark.parametrize("kind", ["one.ome.tif", "one.zarr"])
def test_ome_files_and_stacks(kind, model, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 4096, (2, 3, 64, 64), dtype="uint16")
    save_ome(tmp_path / kind, pixels)
    asked = ["embed", model, tmp_path / kind, "--out", tmp_path / "images.csv"]
    assert run(*asked) == 1
    assert "holds 3 planes in z" in capsys.readouterr().err
    assert run(*asked, "--z", "max", "--channels", "DNA", "actin") == 0
    names = [c for c in read_profiles(tmp_path / "images.csv") if "Metadata" not in c]
    found = read_profiles(tmp_path / "images.csv")[names].to_numpy()
    images = ImageCollection.from_array(
        pixels.max(axis=1)[None], channels=["DNA", "actin"]
    )
    expected = GANDLFeaturizer.load(model).transform(images)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_embed_in_partitions(folder, model, tmp_path, capsys):
    outs = [tmp_path / "images.parquet", tmp_path / "images"]
    embed = ["embed", model, *images_of(folder), "--select", "site == '1'"]
    assert run(*embed, "--out", outs[0]) == 0
    asked = [*embed, "--rows-per-partition", 10, "--out", outs[1]]
    assert run(*asked) == 0
    found, expected = (read_profiles(out) for out in reversed(outs))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    before = [path.stat().st_mtime_ns for path in sorted(outs[1].glob("part-*"))]
    assert len(before) == -(-len(expected) // 10) > 1
    assert run(*asked) == 0
    after = [path.stat().st_mtime_ns for path in sorted(outs[1].glob("part-*"))]
    assert after == before
    capsys.readouterr()
    assert run(*asked, "--overwrite") == 1
    assert "leave out --overwrite" in capsys.readouterr().err
    assert run(*asked, "--select", "site == '2'") == 1
    assert "made of other images and metadata" in capsys.readouterr().err


def test_fit_embed_generate(folder, model, tmp_path, capsys):
    table = tmp_path / "images.csv"
    assert run("embed", model, *images_of(folder), "--out", table) == 0
    images = ImageCollection.from_folder(
        folder, PATTERN, channels={"1": "DNA", "3": "actin"}
    )
    featurizer = GANDLFeaturizer.load(model)
    embeddings = featurizer.transform(images)
    profiles = read_profiles(table)
    names = list(featurizer.get_feature_names_out())
    np.testing.assert_allclose(profiles[names], embeddings, rtol=1e-6)
    assert profiles["Metadata_Well"].tolist() == images.metadata["well"].tolist()
    made = tmp_path / "made.tif"
    assert run("generate", model, "-n", 3, "--seed", 5, "--out", made) == 0
    np.testing.assert_allclose(
        tifffile.imread(made), featurizer.generate(3, random_state=5)
    )
    assert "3 images, 2 channels of 64 x 64" in capsys.readouterr().out
    record = json.loads((tmp_path / "images.csv.run.json").read_text())
    assert record["options"]["model"] == str(model)
    assert record["versions"]["gandl"] == gandl.__version__
    assert record["model"]["activations"] in ("float32", "bfloat16")
    assert record["data"]["images"] == len(images)
    assert record["data"]["fingerprint"] == joblib.hash(images)
    assert record["model"]["channels"] == ["DNA", "actin"]
    drawn = json.loads((tmp_path / "made.tif.run.json").read_text())
    assert drawn["options"]["seed"] == 5
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert drawn["sha256"] == record["sha256"] == {"model": digest}


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_fit_continues(folder, tmp_path, monkeypatch, capsys):
    command = ["fit", *images_of(folder), "--minutes", 0.05, "--out", tmp_path / "m.st"]
    command += ["--checkpoint", tmp_path / "checkpoints"]
    with monkeypatch.context() as patch:
        step = Trainer.step

        def interrupted(trainer, *arguments):
            if trainer.n_steps == 3:
                signal.raise_signal(signal.SIGINT)
            return step(trainer, *arguments)

        patch.setattr(Trainer, "step", interrupted)
        assert run(*command) == 130
    assert "The same command continues from" in capsys.readouterr().err
    assert not (tmp_path / "m.st").exists()
    assert run(*command) == 0
    model = GANDLFeaturizer.load(tmp_path / "m.st")
    assert model.checkpoint_dir is None
    assert model.n_iter_ > 4


def test_images_that_cannot_be_read_are_left_out_and_listed(folder, tmp_path, capsys):
    broken = tmp_path / "<script>" / "plates"
    shutil.copytree(folder, broken)
    path = next((broken / "images").rglob("*_s2_w3.tif"))
    path.write_bytes(path.read_bytes()[:500])
    plate_map = ["--plate-map", broken / "metadata.csv", *CONTROLS, "--minutes", 0.005]
    command = ["screen", *images_of(broken), *plate_map, "--out", tmp_path / "out"]
    assert run(*command) == 1
    assert str(path) in capsys.readouterr().err
    assert run(*command, "--on-error", "skip", "--overwrite") == 0
    assert "Images left out: 1; the first" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (skipped,) = record["data"]["skipped"]
    assert skipped["path"] == str(path)
    assert "truncated" in skipped["reason"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Images left out" in page
    assert "Images left out, listed below: 1." in page  # at the top
    assert "/&lt;script&gt;/plates/images" in page
    profiles = read_profiles(tmp_path / "out" / "images.parquet")
    n_images = len(list((folder / "images").rglob("*_w3.tif")))
    assert len(profiles) == n_images - 1


def test_channels_that_are_left_out_are_told(folder, model, tmp_path, capsys):
    table, channels = tmp_path / "load_data.csv", {"1": "DNA", "2": "ER", "3": "actin"}
    files = ImageCollection.from_folder(folder, PATTERN.replace("{channel}", "1"))
    known = files.metadata.iloc[:2].to_dict("records")
    named = {
        f"FileName_{name}": [PATTERN.format_map(row | {"channel": k}) for row in known]
        for k, name in channels.items()
    }
    pd.DataFrame(named).to_csv(table, index=False)
    some = {"wells": images_of(folder), "table": [table, "--root", folder]}
    some["table"] += ["--channels", "DNA", "actin"]
    paths = tmp_path / "wide.csv"
    wide = pd.DataFrame(named).set_axis([*channels.values()], axis=1)
    wide.to_csv(paths, index=False)
    given = [paths, "--root", folder, "--path", *channels.values(), "--channels"]
    some["paths"] = [*given, "DNA", "actin"]
    some["renamed"] = [*given, "ER=DNA", "actin=actin"]
    of_each = {"wells": "2", "table": "ER", "paths": "ER", "renamed": "DNA"}
    for name, images in some.items():
        out = tmp_path / f"{name}.csv"
        assert run("embed", model, *images, "--out", out) == 0
        told = f"Channels that --channels leaves out: {of_each[name]}."
        assert told in capsys.readouterr().err.splitlines()
        record = json.loads((tmp_path / f"{name}.csv.run.json").read_text())
        assert told in record["told"]
    options = make_parser().parse_args(["embed", "x", str(folder), "--out", "x"])
    options.pattern = PATTERN
    collect(options)
    assert "leaves out" not in capsys.readouterr().err


def test_screen_and_score_end_in_the_same_table(folder, model, tmp_path, capsys):
    out = tmp_path / "results"
    given = ["--plate-map", folder / "metadata.csv", *CONTROLS]
    expected = GANDLFeaturizer.load(model).set_params(verbose=False)
    expected.save(model, overwrite=True)
    # The map has a row a site here, and the images are looked up by site too.
    arguments = [*images_of(folder), *given, "--model", model, "--pixel-size", 0.65]
    assert run("screen", *arguments, "--out", out) == 0
    assert {entry.name for entry in out.iterdir()} == {
        "compounds.csv",
        "controls.csv",
        "images.parquet",
        "model.safetensors",
        "report.html",
        "run.json",
        "wells.parquet",
    }
    copied = GANDLFeaturizer.load(out / "model.safetensors")
    assert copied.get_params() == expected.get_params()
    printed = capsys.readouterr().out
    assert str(out / "report.html") in printed
    compounds = pd.read_csv(out / "compounds.csv")
    assert sorted(compounds["compound"]) == ["compound-1", "compound-2"]
    assert len(json.loads(compounds["calls"][0])) == 6
    assert len(pd.read_csv(out / "controls.csv")) == 2
    again = tmp_path / "scores"
    given = [*CONTROLS]
    assert run("score", out / "images.parquet", *given, "--out", again) == 0
    pd.testing.assert_frame_equal(pd.read_csv(again / "compounds.csv"), compounds)
    for folder_of, read in ((out, {"model", "plate_map"}), (again, {"profiles"})):
        record = json.loads((folder_of / "run.json").read_text())
        assert set(record["sha256"]) == read
        assert record["ended"]
    wells = read_profiles(out / "wells.parquet")
    assert len(wells) == 2 * 12 + 2 * 6 * 2
    assert (wells["Metadata_n_rows"] == 2).all()
    assert not list(tmp_path.glob("*incomplete*"))


def test_a_table_with_a_column_of_paths_a_channel(folder, model, tmp_path):
    wells = pd.read_csv(folder / "metadata.csv", dtype=str)[["plate", "well"]].iloc[:3]
    images = ImageCollection.from_folder(folder, PATTERN, channels={"1": "a", "3": "b"})
    for k, name in ((1, "w1"), (3, "w3")):
        found = sorted(folder.glob(f"images/*/Plate*/*_s1_w{k}.tif"))[:3]
        wells[name] = [str(path.relative_to(folder)) for path in found]
    wells.to_csv(folder / "wide.csv", index=False)
    given = [folder / "wide.csv", "--path", "w1", "w3", "--channels"]
    given += ["w1=DNA", "w3=actin"]
    try:
        assert run("embed", model, *given, "--out", tmp_path / "wells.csv") == 0
    finally:
        (folder / "wide.csv").unlink()
    first = images.select("site == '1'")[:3]
    expected = GANDLFeaturizer.load(model).transform(first.load_batch(slice(None)))
    found = read_profiles(tmp_path / "wells.csv")
    assert list(found)[:2] == ["Metadata_Plate", "Metadata_Well"]
    np.testing.assert_allclose(found.iloc[:, 2:], expected, rtol=1e-5, atol=1e-5)


def test_load_data(folder, model, tmp_path):
    """CellProfiler's load_data.csv, of the same files."""
    images = ImageCollection.from_folder(
        folder, PATTERN, channels={"1": "DNA", "3": "actin"}
    )
    known = images.metadata
    table = pd.DataFrame({"Metadata_Plate": known["plate"]})
    table["Metadata_Well"] = known["well"]
    for channel, name in (("1", "DNA"), ("3", "actin")):
        table[f"PathName_{name}"] = (
            "images/" + known["experiment"] + "/Plate" + known["plate"]
        )
        table[f"FileName_{name}"] = [
            f"{row.well}_s{row.site}_w{channel}.tif" for row in known.itertuples()
        ]
    table.to_csv(folder.parent / "load_data.csv", index=False)
    outs = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    assert run("embed", model, *images_of(folder), "--out", outs[0]) == 0
    source = [folder.parent / "load_data.csv", "--root", folder]
    assert run("embed", model, *source, "--out", outs[1]) == 0
    a, b = (read_profiles(out).filter(like="gandl") for out in outs)
    assert a.shape[1] > 0
    pd.testing.assert_frame_equal(a, b)


@pytest.mark.filterwarnings("ignore:X has images corrected for illumination")
def test_load_data_of_stacks_without_plates(model, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 4096, (4, 3, 64, 64), dtype="uint16")
    rows = []
    for k in range(2):
        names = [f"{k}_{name}.tif" for name in ("DNA", "actin")]
        for c, name in enumerate(names):
            stack = pixels[2 * k + c]
            tifffile.imwrite(
                tmp_path / name, stack, imagej=True, metadata={"axes": "ZYX"}
            )
        rows.append(dict(zip(["FileName_DNA", "FileName_actin"], names, strict=True)))
    table = tmp_path / "load_data.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    out = tmp_path / "a.parquet"
    assert run("embed", model, table, "--out", out) == 1
    assert "Pass z=0 to 2" in capsys.readouterr().err
    # Without a column of plates, all images are of one, whose light is estimated.
    for illumination in ([], ["--illumination"]):
        taken = [table, "--z", "max", *illumination, "--overwrite", "--out", out]
        assert run("embed", model, *taken) == 0
        images = ImageCollection.from_array(pixels.max(axis=1).reshape(2, 2, 64, 64))
        images = images.with_illumination(by=None) if illumination else images
        expected = GANDLFeaturizer.load(model).set_params(verbose=False)
        features = read_profiles(out).filter(like="gandl")
        named = ImageCollection.from_array(
            np.asarray(images), channels=["DNA", "actin"]
        )
        np.testing.assert_allclose(features, expected.transform(named), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:X has images corrected for illumination")
def test_a_pattern_that_is_found_and_illumination(folder, model, tmp_path):
    """make_screen names files as RxRx does; a plate map in the shape of the plate."""
    named = ["--channels", "1=DNA", "3=actin", "--illumination"]
    tables = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    columns = range(1, 25)
    lines = [[row, *(f"{row}-{c}" for c in columns)] for row in "ABCDEFGHIJKLMNOP"]
    plate_map = tmp_path / "map.xlsx"
    with pd.ExcelWriter(plate_map, engine="xlsxwriter") as book:
        layout = pd.DataFrame(lines, columns=["place", *columns])
        layout.to_excel(book, sheet_name="layout", index=False)
        pd.DataFrame({"n": [1]}).to_excel(book, sheet_name="notes", index=False)
    source = [folder, *named, "--plate-map", plate_map, "--sheet", "layout"]
    assert run("embed", model, *source, "--out", tables[0]) == 0
    source = [folder, "--pattern", "RxRx", *named]
    assert run("embed", model, *source, "--out", tables[1]) == 0
    a, b = (read_profiles(table) for table in tables)
    features = a.filter(like="gandl")
    pd.testing.assert_frame_equal(features, b.filter(like="gandl"))
    wells = [f"{w[0]}-{int(w[1:])}" for w in a["Metadata_Well"]]
    assert a["Metadata_place"].tolist() == wells
    images = ImageCollection.from_folder(folder, channels={"1": "DNA", "3": "actin"})
    with_light = GANDLFeaturizer.load(model).transform(images.with_illumination())
    np.testing.assert_allclose(features, with_light, rtol=1e-5)


def test_nothing_is_overwritten_unless_told(folder, model, tmp_path, capsys):
    before = model.read_bytes()
    fit = ["fit", *images_of(folder), "--minutes", 0.005, "--seed", 1, "--out", model]
    assert run(*fit) == 1
    assert "exists: name another, or --overwrite" in capsys.readouterr().err
    assert model.read_bytes() == before
    assert run(*fit, "--overwrite") == 0
    assert model.read_bytes() != before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    given = [*images_of(folder), "--plate-map", folder / "metadata.csv", *CONTROLS]
    screen = ["screen", *given, "--model", model, "--out", mine, "--overwrite"]
    assert run(*screen) == 1
    assert "'thesis.txt', which was not written by gandl" in capsys.readouterr().err
    assert (mine / "thesis.txt").exists()


def test_a_folder_is_not_overwritten_by_what_is_read_from_it(
    folder, model, tmp_path, capsys
):
    out = tmp_path / "results"
    out.mkdir()
    table = out / "images.parquet"
    assert run("embed", model, *images_of(folder), "--out", table) == 0
    (out / "images.parquet.run.json").unlink()
    given = ["--plate-map", folder / "metadata.csv", *CONTROLS]
    assert run("score", table, *given, "--out", out, "--overwrite") == 1
    assert "is to be read, and lies in --out" in capsys.readouterr().err
    assert table.is_file()
    other = tmp_path / "scores"
    for _ in range(2):
        assert run("score", table, *given, "--out", other, "--overwrite") == 0


def changed(folder, path, **columns):
    """The plate map, with values of some columns changed where a query says so."""
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    for name, (query, value) in columns.items():
        table.loc[table.query(query).index, name] = value
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("screen X --model m --preset paper", "does not train: leave out --preset"),
        ("screen X --model m --seed 0", "does not train: leave out --seed"),
        ("screen X --hits 0", "--hits is at least 1, got 0"),
        ("screen X --jobs 0", "--jobs is at least 1, or -1 for all cores, got 0"),
        ("screen X --pixel-size 0", "--pixel-size is above 0, in micrometres, got 0"),
        ("score X --control c --negative a --positive a", "--positive are both 'a'"),
        ("screen X --sheet a", "--sheet is of the --plate-map"),
        ("fit X --root there", "--root has no effect on a folder"),
        ("fit X/metadata.csv --pattern {well}.tif", "--pattern has no effect on a ta"),
        ("fit X --channels 1=DNA 1=actin", "1 is there twice"),
        ("fit X --channels 1=DNA 3=DNA", "one name for two channels"),
        ("fit X/metadata.csv --channels 1=DNA", r"'1' is none of these: \['path'\]"),
        ("generate m --out x.png", "'x.png': a TIFF stack is .tif or .tiff"),
        (
            "fit X --select plate>1",
            "'plate>1' compares the text 'plate' .*tables are text: plate",
        ),
        ("embed m X --out wells.tsv", "'wells.tsv' does not end in .parquet"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused_at_once(
    arguments, message, folder, capsys
):
    given = [word.replace("X", str(folder), 1) for word in arguments.split()]
    given += CONTROLS if given[0] == "screen" else []
    given += [] if "--out" in given else ["--out", "there"]
    assert run(*given) == 1
    assert re.search(message.replace(".tsv", r"\.tsv"), capsys.readouterr().err)


def test_warnings_are_lines_of_the_command(model, folder, tmp_path, capsys):
    (folder / "images/new/Plate9/raw").mkdir(parents=True)
    (folder / "images/new/Plate9/raw/A01_s1_w1.TIF").write_bytes(b"")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            given = [*images_of(folder), "--illumination"]
            assert run("embed", model, *given, "--out", tmp_path / "a.csv") == 0
    finally:
        shutil.rmtree(folder / "images" / "new")
    told = capsys.readouterr().err
    assert "Warning: X has images corrected for illumination, and" in told
    lost = "images/new/Plate9/raw/A01_s1_w1.TIF"
    assert (
        f"all of 1 folder, where they lie one folder deeper, such as {lost!r}" in told
    )


def test_a_corrected_plate_map_goes_before_what_was_known(tmp_path, capsys):
    n = 24
    wells = pd.DataFrame(
        {
            "plate": "P1",
            "well": [f"{row}{k + 1:02}" for row in "AB" for k in range(n // 2)],
            "disease_condition": ["healthy"] * 6 + ["infected"] * 18,
            "compound": [None] * 12 + ["drug"] * 12,
            "concentration": [None] * 12 + ["1", "3", "10", "30"] * 3,
        }
    )
    known = wells.set_axis([f"Metadata_{name}" for name in wells], axis=1)
    known["feature_0"] = np.random.default_rng(0).normal(size=n)
    known["Metadata_unit"] = "nM"
    known.to_csv(tmp_path / "images.csv", index=False)
    corrected = wells.assign(moa="unknown", unit="µM")
    corrected.loc[corrected["compound"] == "drug", "compound"] = "aspirin"
    corrected.to_csv(tmp_path / "map.csv", index=False)
    given = [tmp_path / "images.csv", "--plate-map", tmp_path / "map.csv", *CONTROLS]
    assert run("score", *given, "--out", tmp_path / "scores") == 0
    told = "not from the table: disease_condition, compound, concentration, unit."
    assert told in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "scores" / "compounds.csv")
    assert table["compound"].tolist() == ["aspirin"]
    # Where the map has a well of each donor, donors tell wells apart.
    known.assign(Metadata_donor=[None, *["1"] * 23]).to_csv(
        tmp_path / "images.csv", index=False
    )
    donors = [corrected.assign(donor=name) for name in "12"]
    pd.concat(donors).to_csv(tmp_path / "map.csv", index=False)
    assert run("score", *given, "--out", tmp_path / "no") == 1
    assert "Row 0 has no donor to look up" in capsys.readouterr().err
    known.to_csv(tmp_path / "images.csv", index=False)
    # A well whose compound was forgotten is no control.
    corrected.loc[20, "compound"] = None
    corrected.to_csv(tmp_path / "map.csv", index=False)
    assert run("score", *given, "--out", tmp_path / "again") == 0
    told = "without a compound are taken for controls: 1, such as B09 of plate P1."
    assert told in capsys.readouterr().err


def test_sites_of_a_well_are_of_one_treatment(tmp_path, capsys):
    rng = np.random.default_rng(0)
    kinds = ["healthy"] * 4 + ["infected"] * 4 + ["infected"] * 2
    wells = pd.DataFrame(
        {
            "Metadata_Plate": "P1",
            "Metadata_Well": [f"A{k + 1:02}" for k in range(10)],
            "Metadata_disease_condition": kinds,
            "Metadata_compound": [None] * 8 + ["drug"] * 2,
            "Metadata_concentration": [None] * 8 + ["3"] * 2,
        }
    ).loc[np.repeat(np.arange(10), 2)]
    wells["Metadata_Site"] = ["1", "2"] * 10
    wells["feature_0"] = rng.normal(size=20)
    wells.loc[wells["Metadata_disease_condition"] == "infected", "feature_0"] += 9
    score = ["score", tmp_path / "images.csv", *CONTROLS, "--out"]
    wells.to_csv(tmp_path / "images.csv", index=False)
    assert run(*score, tmp_path / "scores") == 0
    assert (
        "too few concentrations or wells for a curve: 1, such"
        in capsys.readouterr().err
    )
    table = pd.read_csv(tmp_path / "scores/compounds.csv")
    assert table["q_value"].isna().all()
    wells["Metadata_concentration"] = [None] * 16 + ["3", "30"] * 2
    wells.to_csv(tmp_path / "images.csv", index=False)
    assert run(*score, tmp_path / "again") == 1
    told = "Well A09 of plate P1 has images of concentration '3' and of '30'"
    assert told in capsys.readouterr().err


def test_compounds_on_healthy_cells_are_left_out(folder, model, tmp_path, capsys):
    """A counter-screen: they would pull the curve down, as rescued cells do."""
    query = "compound == 'compound-1' and concentration == concentration.max()"
    plate_map = changed(
        folder, tmp_path / "map.csv", disease_condition=(query, "healthy")
    )
    given = ["--plate-map", plate_map, *CONTROLS]
    arguments = ["screen", *images_of(folder), *given, "--model", model]
    assert run(*arguments, "--out", tmp_path / "out") == 0
    told = "Wells left out (has a compound, but is 'healthy', not 'infected'): "
    assert told in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    left_out = record["wells_left_out"]
    assert [f"({well['left_out']})" in told for well in left_out] == [True, True]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Wells left out, listed below: 2." in page
    listed = page.split("<h2>Wells left out</h2>")[1].split("<h2")[0]
    assert all(well["well"] in listed for well in left_out)
    table = pd.read_csv(tmp_path / "out" / "compounds.csv").set_index("compound")
    assert table["n_rows"].to_dict() == {"compound-1": 10, "compound-2": 12}


def test_select_plates_and_intensity_of_each(folder, tmp_path, capsys):
    given = [*images_of(folder), "--minutes", 0.005, "--intensity", "plate"]
    model, table = tmp_path / "model.safetensors", tmp_path / "images.parquet"
    batch = ["--batch", "experiment", "plate"]
    chosen = ["--select", "plate.str.endswith('/2')"]
    assert run("fit", *given, *batch, *chosen, "--out", model) == 0
    assert run("embed", model, *images_of(folder), *batch, "--out", table) == 0
    profiles = read_profiles(table)
    plates = set(profiles["Metadata_Plate"])
    assert {plate.rpartition("/")[2] for plate in plates} == {"1", "2"}
    other = tmp_path / "other.safetensors"
    for query, message in (
        ("plate == '9'", "takes no row"),
        ("sheet == '9'", "There are the columns ['experiment', 'plate'"),
    ):
        assert run("fit", *given, "--select", query, "--out", other) == 1
        assert message in capsys.readouterr().err


def test_plates_that_the_plate_map_names_have_ranges_of_their_own(tmp_path):
    """The files name barcodes alone, and what is a plate stands in the map."""
    for k, barcode in enumerate(("BC1", "BC2")):
        for well in ("A01", "A02"):
            path = tmp_path / "plates" / barcode / f"{well}_w1.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, np.full((64, 64), 10 + 990 * k, dtype="uint16"))
    (tmp_path / "map.csv").write_text(
        "barcode,plate,well\nBC1,P1,A01\nBC1,P1,A02\nBC2,P2,A01\nBC2,P2,A02\n"
    )
    parser = make_parser()
    options = parser.parse_args(
        [
            *("screen", str(tmp_path / "plates"), "--illumination", *CONTROLS),
            *("--pattern", "{barcode}/{well}_w{channel}.tif"),
            *("--plate-map", str(tmp_path / "map.csv"), "--out", "out"),
        ]
    )
    images, known = collect(options)
    assert known["plate"].tolist() == ["P1", "P1", "P2", "P2"]
    ranged = with_plate_range(images, known, "plate")
    np.testing.assert_allclose(ranged.intensity_range[:, 0, 0], [10, 10, 1000, 1000])
    assert illumination_groups(images._source).tolist() == [0, 0, 1, 1]


def test_crops_of_another_size(folder, model, tmp_path, capsys):
    out = tmp_path / "small.safetensors"
    small = [*images_of(folder), "--minutes", 0.005, "--image-size", 32]
    assert run("fit", *small, "--batch-size", 12, "--out", out) == 0
    fitted = GANDLFeaturizer.load(out)
    assert fitted.generate(1).shape[2:] == (32, 32)
    assert fitted.batch_size == 12
    again = ["screen", *images_of(folder), *CONTROLS, "--model", model]
    assert run(*again, "--image-size", 32, "--out", tmp_path / "out") == 1
    assert "--model does not train: leave out --image-size" in capsys.readouterr().err


def test_a_reference_drug_for_a_positive_control_is_told(tmp_path, capsys):
    """Inert compounds are then where the negative controls are."""
    rng = np.random.default_rng(0)
    names = ["DMSO"] * 12 + ["drug"] * 12 + [f"c{k // 3}" for k in range(36)]
    X = rng.normal(size=(60, 4)) + 8 * (np.array(names) == "drug")[:, None]
    wells = pd.DataFrame({"Plate": "P1", "compound": names, "concentration": 1.0})
    wells["Well"] = [f"{'ABCDE'[k // 12]}{k % 12 + 1}" for k in range(60)]
    write_profiles(make_profiles(X, wells), tmp_path / "wells.parquet")
    given = ["score", tmp_path / "wells.parquet", "--control", "compound"]
    given += ["--negative", "DMSO", "--positive", "drug", "--doses-alone"]
    assert run(*given, "--out", tmp_path / "out") == 0
    told = capsys.readouterr()
    assert "12 hit" in told.out
    told_in_both = "where the positive control is a reference drug"
    assert told_in_both in told.err
    assert told_in_both in (tmp_path / "out" / "report.html").read_text()
    wells.loc[12:17, "concentration"] = 0.1
    write_profiles(make_profiles(X, wells), tmp_path / "doses.parquet")
    given[1] = tmp_path / "doses.parquet"
    assert run(*given, "--out", tmp_path / "doses") == 0
    told = capsys.readouterr().err
    assert "positive controls 'drug' are of 2 concentrations, and all are taken" in told


def test_plates_named_by_batch_are_scored_again(folder, model, tmp_path):
    given = ["--batch", "experiment", "plate", *CONTROLS]
    given += ["--plate-map", folder / "metadata.csv"]
    screen = ["screen", *images_of(folder), "--model", model, *given]
    assert run(*screen, "--out", tmp_path / "first") == 0
    profiles = tmp_path / "first" / "images.parquet"
    assert run("score", profiles, *given, "--out", tmp_path / "again") == 0
    first, again = (
        pd.read_csv(tmp_path / name / "controls.csv") for name in ("first", "again")
    )
    pd.testing.assert_frame_equal(first, again)
    assert first["plate"].str.count("/").tolist() == [1, 1]


def test_a_heading_of_another_unit_is_refused(folder, model, tmp_path, capsys):
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    table = table.rename(columns={"concentration": "Conc [nM]"})
    table.to_csv(tmp_path / "map.csv", index=False)
    profiles = tmp_path / "images.parquet"
    assert run("embed", model, *images_of(folder), "--out", profiles) == 0
    given = ["score", profiles, "--plate-map", tmp_path / "map.csv", *CONTROLS]
    given += ["--concentration", "Conc [nM]", "--out", tmp_path / "out"]
    assert run(*given) == 1
    assert "names a unit, and --unit is 'µM': say --unit nM" in capsys.readouterr().err
    assert run(*given, "--unit", "nM") == 0


@pytest.mark.parametrize(
    ("heading", "unit"),
    [
        ("c/nM", "nM"),
        ("Conc-nM", "nM"),
        ("conc_uM", "µM"),
        ("Conc (nmol/L)", "nM"),
        ("Conc [pg/ml]", "pg/mL"),
        ("treatment_conc", None),
        ("log10 nM", None),
    ],
)
def test_units_that_a_heading_names(heading, unit):
    options = argparse.Namespace(concentration=heading, unit="mM")
    with nullcontext() if unit is None else pytest.raises(ValueError, match=unit):
        _check_unit(options)


def test_plates_that_are_numbers_or_missing(folder, model, tmp_path, capsys):
    profiles = tmp_path / "images.parquet"
    assert run("embed", model, *images_of(folder), "--out", profiles) == 0
    table = pd.read_parquet(profiles)
    table["Metadata_Plate"] = table["Metadata_Plate"].astype(int)
    table.to_parquet(tmp_path / "numbers.parquet")
    table["Metadata_Plate"] = table["Metadata_Plate"].where(table.index != 3)
    table.to_parquet(tmp_path / "missing.parquet")
    given = ["--plate-map", folder / "metadata.csv", *CONTROLS]
    source = [tmp_path / "numbers.parquet", *given]
    assert run("score", *source, "--out", tmp_path / "out") == 0
    assert len(pd.read_csv(tmp_path / "out" / "controls.csv")) == 2
    source = [tmp_path / "missing.parquet", *given]
    assert run("score", *source, "--out", tmp_path / "none") == 1
    assert "Row 3 has no plate" in capsys.readouterr().err


def test_what_was_trained_is_kept_when_scoring_fails(
    folder, tmp_path, capsys, monkeypatch
):
    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("gandl.report.write_report", full)
    given = [*images_of(folder), "--plate-map", folder / "metadata.csv", *CONTROLS]
    out = tmp_path / "results"
    assert run("screen", *given, "--minutes", 0.005, "--out", out) == 1
    error = capsys.readouterr().err
    assert "No space left" in error
    assert not out.exists()
    (kept,) = tmp_path.glob("results.incomplete.*")
    assert str(kept) in error
    assert (kept / "model.safetensors").is_file()


def test_a_model_that_cannot_embed_leaves_nothing(folder, model, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    images = [folder, "--pattern", PATTERN, "--model", model]
    given = ["--plate-map", folder / "metadata.csv", *CONTROLS]
    assert run("screen", *images, *given, "--out", tmp_path / "results") == 1
    error = capsys.readouterr().err
    assert "X has 3 channels, but GANDLFeaturizer was fitted on" in error
    assert "What was done so far" not in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere"], "There is no 'nowhere'"),
        (["fit", "."], "No pattern fits the files"),
        (["fit", ".", "--pattern", "phoenix"], "No pattern is called 'phoenix'"),
        (["embed", "none.safetensors", "."], "none.safetensors"),
        (["generate", "none.safetensors"], "none.safetensors"),
        (["score", "none.parquet", *CONTROLS], "none.parquet"),
        (["score", "none.xlsx", *CONTROLS], "does not end in"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out" / ("x.tif" if arguments[0] == "generate" else "x.csv")
    assert run(*arguments, "--out", out) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("--minuts", "--minutes"), ("--che", "--checkpoint"), ("--gpu", ""), ("b", "")],
)
def test_unknown_options_are_refused(name, meant, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run("fit", tmp_path, name, "--out", tmp_path / "x")
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    remedy = f"; is {meant} meant?" if meant else ""
    assert told == f"gandl fit: error: unrecognized arguments: {name}{remedy}"


@pytest.mark.parametrize("command", ["fit", "embed", "score", "screen", "generate"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0
    assert f"example:\n  gandl {command} " in capsys.readouterr().out


def test_as_a_module_and_without_torch():
    code = "import gandl.cli, sys; heavy = {'torch', 'matplotlib'}; "
    code += "sys.exit(len(heavy & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    shown = subprocess.run(
        [sys.executable, "-m", "gandl", "--version"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip() == gandl.__version__
    with pytest.raises(subprocess.CalledProcessError) as wrong:
        subprocess.run(
            [sys.executable, "-m", "gandl", "sing"], check=True, capture_output=True
        )
    assert wrong.value.returncode == 2


def test_plates_of_one_name_are_not_averaged(folder, tmp_path, capsys):
    """Two experiments that both have a plate 1 are two plates, once that is said."""
    plates, names = tmp_path / "plates", ["first", "second"]
    for name in names:
        for source in (folder / "images").glob("*/Plate1"):
            shutil.copytree(source, plates / name / source.name)
    plate_map = pd.read_csv(folder / "metadata.csv", dtype=str)
    plate_map = plate_map[plate_map["plate"] == "1"].drop_duplicates("well")
    plate_map = plate_map.drop(columns=["experiment", "site", "plate"])
    plate_map.to_csv(tmp_path / "map.csv", index=False)
    given = [
        *(plates, "--plate-map", tmp_path / "map.csv", *CONTROLS),
        *("--minutes", 0.005, "--out", tmp_path / "results"),
    ]
    pattern = "{experiment}/Plate{plate}/{well}_s{site}_w{channel}.tif"
    assert run("screen", *given, "--pattern", pattern) == 1
    error = capsys.readouterr().err
    assert "several images of plate 1, well" in error
    assert "which differ in experiment" in error
    assert "--batch experiment plate" in error
    batch = ["--batch", "experiment", "plate"]
    assert run("screen", *given, "--pattern", pattern, *batch) == 0
    controls = pd.read_csv(tmp_path / "results" / "controls.csv")
    assert controls["plate"].tolist() == ["first/1", "second/1"]
    # Called otherwise, sites cannot be told from plates: what is averaged is said.
    capsys.readouterr()
    pattern = pattern.replace("site", "field")
    out = ["--out", tmp_path / "other"]
    assert run("screen", *given, "--pattern", pattern, *batch, *out) == 0
    assert "which differ in field, are averaged" in capsys.readouterr().err


def test_images_of_a_well_that_nothing_tells_apart_are_told(capsys):
    known = pd.DataFrame({"plate": "1", "well": ["A01", "A01", "B01"]})
    named = {"control": "state", "compound": "compound", "concentration": "dose"}
    check_sites(known, argparse.Namespace(**named))
    told = "Images of one well, such as those of plate 1, well A01, are averaged.\n"
    assert capsys.readouterr().err == told


def test_wells_without_images_and_without_controls_are_told(folder, tmp_path, capsys):
    images = [*images_of(folder), "--minutes", 0.005, "--out", tmp_path / "results"]
    plate_map = pd.read_csv(folder / "metadata.csv", dtype=str)
    untreated = plate_map["well_type"] == "positive control"
    of_second = plate_map["plate"] == "2"
    plate_map.loc[untreated & of_second, "disease_condition"] = None
    extra = plate_map[of_second].iloc[:1].assign(well="P24")
    third = plate_map[of_second].assign(plate="3")
    pd.concat([plate_map, extra, third]).to_csv(tmp_path / "map.csv", index=False)
    given = ["--plate-map", tmp_path / "map.csv", *CONTROLS]
    assert run("screen", *images, *given) == 0
    error = capsys.readouterr().err
    assert "without images: experiment cobblestone-1, plate 2, well P24" in error
    assert "Plate 2 has too few wells that are controls 'infected'" in error
    record = json.loads((tmp_path / "results" / "run.json").read_text())
    place = extra[["experiment", "plate", "well", "site"]].to_dict("records")
    plate = [{"experiment": "cobblestone-1", "plate": "3"}]
    assert record["wells_without_images"] == place + plate


@pytest.fixture
def untreated(tmp_path):
    """A table of two plates of DMSO and of compounds, of which one does something."""
    rng = np.random.default_rng(0)
    compounds = ["DMSO"] * 16 + ["inert"] * 8 + ["active"] * 8
    table = pd.DataFrame(
        {
            "Metadata_Plate": np.repeat(["P1", "P2"], 33),
            "Metadata_Well": [f"{r}{k:02}" for r in "ABC" for k in range(1, 12)] * 2,
            "Metadata_compound": [*compounds, None] * 2,
            "Metadata_concentration": [*([0] * 16), *([1, 10] * 8), 0] * 2,
        }
    )
    X = rng.normal(size=(66, 8)) + np.repeat([[0], [5]], 33, axis=0)
    high = (table["Metadata_compound"] == "active") & (
        table["Metadata_concentration"] == 10
    )
    X[high] += 3
    table = table.join(pd.DataFrame(X).add_prefix("feature_"))
    table.to_csv(tmp_path / "images.csv", index=False)
    return tmp_path / "images.csv"


DMSO = ["--control", "compound", "--negative", "DMSO"]


def test_without_positive_controls_treatments_are_told_that_do_anything(
    untreated, tmp_path, capsys
):
    assert run("score", untreated, *DMSO, "--out", tmp_path / "scores") == 0
    told = capsys.readouterr()
    assert "Of 4 treatments, 1 differ from DMSO by energy distance, at a" in told.out
    assert "The farthest: active at 10." in told.out
    assert "neither a control nor given a compound): 1 of plate P1, 1 of" in told.err
    left = {p.name for p in (tmp_path / "scores").iterdir()}
    assert left == {"effects.csv", "run.json", "wells.parquet"}
    table = pd.read_csv(tmp_path / "scores/effects.csv")
    assert table["compound"].tolist() == ["active", "active", "inert", "inert"]
    assert table["concentration"].tolist() == [1, 10, 1, 10]
    assert table["n_replicates"].tolist() == [8] * 4
    assert table["n_draws"].tolist() == [1001] * 4
    expected = [False, True, False, False]
    assert (table["energy_distance_q_value"] < 0.05).tolist() == expected
    assert (table["cosine_q_value"] < 0.05).tolist() == expected
    assert table["energy_distance"].idxmax() == table["cosine"].idxmax() == 1
    wells = read_profiles(tmp_path / "scores/wells.parquet")
    assert len(wells) == 64
    means = wells.groupby("Metadata_Plate").median(numeric_only=True)
    assert np.abs(means.filter(like="feature_")).to_numpy().max() < 1e-9
    record = json.loads((tmp_path / "scores/run.json").read_text())
    assert len(record["wells_left_out"]) == 2
    assert record["draws"] == 1001  # with the treatment itself
    again = ["score", untreated, *DMSO, "--out", tmp_path / "scores"]
    assert run(*again) == 1
    assert run(*again, "--overwrite") == 0


def test_screen_without_positive_controls(folder, model, tmp_path, capsys):
    given = ["--control", "disease_condition", "--negative", "infected"]
    given += ["--plate-map", folder / "metadata.csv", "--model", model]
    assert run("screen", *images_of(folder), *given, "--out", tmp_path / "new") == 0
    out = capsys.readouterr().out
    assert "differ from infected" in out
    assert "Report" not in out
    table = pd.read_csv(tmp_path / "new/effects.csv")
    assert table["compound"].nunique() == 2
    assert np.isfinite(table["energy_distance"]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--doses-alone"], "--doses-alone has no effect without --positive"),
        (["--jobs", 2], "--jobs has no effect without --positive"),
        (["--pixel-size", 0.5], "--pixel-size has no effect without --positive"),
        (["--hits", 9], "--hits has no effect without --positive"),
        (["--title", "Mine"], "--title has no effect without --positive"),
        (["--unit", "nM"], "--unit has no effect without --positive"),
        (
            ["--select", "well in ['A01', 'A02', 'C03']"],
            "Plate P1 has too few wells that are contr",
        ),
    ],
)
def test_what_cannot_be_compared_is_told(given, message, untreated, tmp_path, capsys):
    assert run("score", untreated, *DMSO, *given, "--out", tmp_path / "scores") == 1
    assert message in capsys.readouterr().err


def test_what_effects_may_be_of_is_told(untreated, tmp_path, capsys):
    table = pd.read_csv(untreated)
    active = table["Metadata_compound"] == "active"
    score = ["score", untreated, *DMSO, "--overwrite", "--out", tmp_path / "scores"]

    dose = table["Metadata_concentration"].astype(float)
    again = active & (table["Metadata_Plate"] == "P2")
    table["Metadata_concentration"] = dose.mask(again, 1.01 * dose)
    table.loc[table["Metadata_compound"] == "inert", "Metadata_concentration"] = 0
    table.to_csv(untreated, index=False)
    assert run(*score) == 0
    told = capsys.readouterr().err
    assert "concentration 0 are taken for treated: 16, such as B06 of plate P1" in told
    assert "Doses within 2 % of another" in told
    assert "2, such as 'active' at 1.01" in told

    few = ["--select", "well in ['A01', 'A02', 'A03', 'C03', 'C04', 'B06']"]
    assert run(*score, *few) == 0
    told = capsys.readouterr().err
    assert "make 16 draws at the most" in told

    compared = ["--control", "state", "--negative", "none"]
    table["Metadata_state"] = np.where(active, table["Metadata_Well"].str[1:], "none")
    table.to_csv(untreated, index=False)
    assert run(*score[:2], *compared, *score[6:]) == 1
    assert "'active' at 1 was given to wells that are [" in capsys.readouterr().err

    table["Metadata_state"] = "none"
    features = [name for name in table if name.startswith("feature")]
    table.loc[table["Metadata_compound"] != "DMSO", features] += 3
    table.to_csv(untreated, index=False)
    assert run(*score) == 0
    assert "More than half of the treatments differ" in capsys.readouterr().err


def test_a_negative_control_that_is_none(untreated, tmp_path, capsys):
    score = ["score", untreated, "--control", "compound", "--out", tmp_path / "scores"]
    assert run(*score, "--negative", "dmso2") == 1
    told = capsys.readouterr().err
    assert "name its value by --negative. Empty fields are none" in told
    assert run(*score, "--negative", "DMSO", "--positive", "virus") == 1
    assert "leave out --positive" in capsys.readouterr().err


@pytest.fixture
def scored():
    """Wells of two plates: both controls, and two compounds of which one rescues."""
    n_plates, state = 2, ["healthy"] * 6 + ["infected"] * 18
    compound = [None] * 12 + ["rescue"] * 6 + ["inert"] * 6
    wells = pd.DataFrame(
        {
            "Metadata_Plate": np.repeat(["P1", "P2"], 24),
            "Metadata_Well": [f"{r}{k:02}" for r in "AB" for k in range(1, 13)] * 2,
            "Metadata_state": state * n_plates,
            "Metadata_compound": compound * n_plates,
            "Metadata_concentration": ([0.0] * 12 + [0.1, 0.1, 1, 1, 10, 10] * 2) * 2,
        }
    )
    X = np.random.default_rng(0).normal(size=(48, 5))
    rescued = wells["Metadata_compound"].eq("rescue")
    rescued &= wells["Metadata_concentration"] >= 1
    X[wells["Metadata_state"].ne("healthy") & ~rescued, 0] += 12
    return wells.join(pd.DataFrame(X).add_prefix("feature_"))


def untreated_infected(wells):
    return wells["Metadata_state"].eq("infected") & wells["Metadata_compound"].isna()


STATES = ["--control", "state", "--negative", "healthy", "--positive", "infected"]


def score(table, path, *options):
    """Status of scoring a table, and its compounds."""
    write = table.to_parquet if path.suffix == ".parquet" else table.to_csv
    write(path, index=path.suffix == ".parquet")
    out = path.with_suffix("")
    status = run("score", path, *options, "--out", out, "--overwrite")
    if status:
        return status, None
    table = "compounds.csv" if "--positive" in options else "effects.csv"
    return status, pd.read_csv(out / table)


@pytest.mark.parametrize("options", [STATES, ["--control", "compound"]])
def test_a_table_of_other_types_is_scored_as_its_text_is(scored, tmp_path, options):
    if "--positive" not in options:
        scored = scored[scored["Metadata_state"] != "healthy"]
        scored = scored.fillna({"Metadata_compound": "DMSO"})
        options = [*options, "--negative", "DMSO"]
    _, expected = score(scored, tmp_path / "text.csv", *options)
    kinds = scored.astype(
        {"Metadata_compound": "category", "Metadata_state": "category"}
    )
    _, found = score(kinds, tmp_path / "kinds.parquet", *options)
    pd.testing.assert_frame_equal(found, expected)
    _, found = score(scored, tmp_path / "table.parquet", *options)
    pd.testing.assert_frame_equal(found, expected)


def test_rows_of_a_table_are_as_they_stand_whatever_its_index_says(scored, tmp_path):
    _, expected = score(scored, tmp_path / "text.csv", *STATES)
    doses = ["Metadata_Plate", "Metadata_Well", "Metadata_concentration"]
    scored[doses].to_csv(tmp_path / "map.csv", index=False)
    scored = scored.drop(columns=doses[-1]).set_axis(np.arange(48)[::-1])
    plate_map = ["--plate-map", tmp_path / "map.csv", "--select", "plate != 'P3'"]
    _, found = score(scored, tmp_path / "table.parquet", *STATES, *plate_map)
    pd.testing.assert_frame_equal(found, expected)


def test_controls_and_compounds_may_be_numbers(scored, tmp_path):
    _, expected = score(scored, tmp_path / "text.csv", *STATES)
    scored["Metadata_state"] = scored["Metadata_state"].map(
        {"healthy": 0, "infected": 1}
    )
    scored["Metadata_compound"] = scored["Metadata_compound"].map(
        {"rescue": 103, "inert": 104}
    )
    options = ["--control", "state", "--negative", "0", "--positive", "1"]
    _, found = score(scored, tmp_path / "numbers.parquet", *options)
    assert sorted(found["compound"]) == [103, 104]
    assert found["call"].tolist() == expected["call"].tolist() == ["hit", "inactive"]


@pytest.mark.parametrize("name", ["ImageNumber", "concentration", "Plate", "WELL"])
def test_what_is_known_of_a_row_is_no_feature(scored, tmp_path, capsys, name):
    scored = scored.drop(columns=f"Metadata_{name}", errors="ignore")
    scored[name] = np.arange(48)
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 1
    assert f"name it 'Metadata_{name}', or leave it out" in capsys.readouterr().err


def test_concentrations_are_in_one_unit(scored, tmp_path, capsys):
    treated = scored["Metadata_compound"].notna()
    scored["Metadata_unit"] = np.where(treated, "uM", "none")
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    assert score(scored, tmp_path / "wells.csv", *STATES, "--unit", "nM")[0] == 1
    assert "has 'µM', and --unit is 'nM': say --unit µM" in capsys.readouterr().err
    scored.loc[47, "Metadata_unit"] = "nM"
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 1
    assert "'unit' has ['µM', 'nM'] of 'inert'" in capsys.readouterr().err
    # Of an antibody there are no moles; numbers of colonies are a unit of their own.
    inert = scored["Metadata_compound"] == "inert"
    for unit in ("ug/mL", "cfu/mL"):
        scored.loc[inert, "Metadata_unit"] = unit
        assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    assert "in ['µM', 'cfu/mL'] by the column 'unit'" in capsys.readouterr().err
    scored["Metadata_unit"] = "cfu/mL"
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0


@pytest.mark.parametrize("source", ["table", "map"])
def test_the_two_characters_of_micro_are_one(scored, tmp_path, capsys, source):
    _, expected = score(scored, tmp_path / "expected.csv", *STATES)
    for heading, asked, unit in [("\u00b5", "\u03bc", "\u00b5"), "\u03bc\u00b5\u03bc"]:
        name = f"Metadata_Conc [{heading}M]"
        table = scored.rename(columns={"Metadata_concentration": name})
        how = [*STATES, "--concentration", f"Conc [{asked}M]", "--unit", f"{unit}M"]
        if source == "map":
            known = table.filter(like="Metadata_")
            known.to_csv(tmp_path / "map.csv", index=False)
            how += ["--plate-map", tmp_path / "map.csv"]
            table = table.drop(columns=name)
        status, found = score(table, tmp_path / "wells.csv", *how)
        assert status == 0, capsys.readouterr().err
        pd.testing.assert_frame_equal(found, expected)


def test_cells_of_several_kinds_are_told(scored, tmp_path, capsys):
    scored["Metadata_cell_line"] = np.repeat(["HRCE", "VERO"], 24)
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    told = capsys.readouterr().err
    assert "over all of cell_line together: HRCE, VERO" in told
    assert "--select \"cell_line == 'HRCE'\"" in told


def test_plates_without_positive_controls_cannot_be_judged(scored, tmp_path, capsys):
    on_second = scored["Metadata_Plate"] == "P2"
    scored = scored[~(on_second & untreated_infected(scored))]
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    told = capsys.readouterr().err
    assert "Plate P2 has too few wells that are controls 'infected'" in told
    assert "do not trust" not in told
    page = (tmp_path / "wells/report.html").read_text()
    assert "Too few controls to say whether they separate in 1 of 2 plates." in page
    assert "Controls do not separate in" not in page
    assert '<span class="poor">not known</span>' in page


def test_the_record_has_what_was_told_and_left_out(scored, tmp_path):
    healthy = scored.index[scored["Metadata_state"] == "healthy"]
    scored.loc[healthy[0], "Metadata_compound"] = "aspirin"
    scored["Metadata_cell_line"] = np.repeat(["HRCE", "VERO"], 24)
    scored["Metadata_Batch"] = "B7"  # the user's own, which databases take for ours
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    record = json.loads((tmp_path / "wells" / "run.json").read_text())
    assert any("over all of cell_line together" in line for line in record["told"])
    assert "over all of cell_line together" in (
        (tmp_path / "wells" / "report.html").read_text()
    )
    (left_out,) = record["wells_left_out"]
    assert left_out["compound"] == "aspirin"
    wells = read_profiles(tmp_path / "wells" / "wells.parquet")
    assert set(wells["Metadata_Batch_given"]) == {"B7"}
    assert wells["Metadata_compound_given"].eq("aspirin").sum() == 1
    assert not wells["Metadata_compound"].eq("aspirin").any()
    assert feature_columns(wells) == feature_columns(scored)
    assert set(wells["Metadata_batch"]) == {"P1", "P2"}


def test_wells_that_were_scored_are_not_scored_again(scored, tmp_path, capsys):
    table = scored.rename(columns={"Metadata_state": "Metadata_kind"})
    how = ["--control", "kind", *STATES[2:]]
    _, found = score(table, tmp_path / "wells.csv", *how)
    assert found["call"].tolist() == ["hit", "inactive"]
    wells = read_profiles(tmp_path / "wells/wells.parquet")
    assert wells["Metadata_kind_given"].tolist() == table["Metadata_kind"].tolist()
    assert score(wells, tmp_path / "again.parquet", *how)[0] == 1
    assert "score the embeddings that they were made of" in capsys.readouterr().err


def test_names_that_are_taken_are_kept(scored, tmp_path):
    own = {"Metadata_kind": "a", "Metadata_kind_given": "b"}
    assert score(scored.assign(**own), tmp_path / "wells.csv", *STATES)[0] == 0
    wells = read_profiles(tmp_path / "wells" / "wells.parquet")
    assert set(wells["Metadata_kind_given"]) == {"b"}
    assert set(wells["Metadata_kind_given_given"]) == {"a"}


def test_names_that_look_alike_are_told(scored, tmp_path, capsys):
    inert = scored.index[scored["Metadata_compound"] == "inert"]
    scored.loc[inert, "Metadata_compound"] = ["in ert", "in\u00a0ert"] * (
        len(inert) // 2
    )
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    assert "Taken for different compounds: 'in ert' and" in capsys.readouterr().err


def test_plates_that_the_plate_map_does_not_know_apart_are_told(
    scored, tmp_path, capsys
):
    wells = scored.filter(like="Metadata_").rename(columns=lambda name: name[9:])
    wells.to_csv(tmp_path / "map.csv", index=False)
    twice = [scored.assign(Metadata_scan=scan) for scan in ("t1", "t2")]
    how = [*STATES, "--batch", "scan", "plate", "--plate-map", tmp_path / "map.csv"]
    assert score(pd.concat(twice), tmp_path / "wells.csv", *how)[0] == 0
    told = capsys.readouterr().err
    assert "has no column 'scan': plates that differ in it alone" in told
    assert "keep one by --select" in told


def test_a_name_of_empty_wells_is_told(scored, tmp_path, capsys):
    scored.loc[np.flatnonzero(untreated_infected(scored))[:3], "Metadata_compound"] = (
        "EMPTY"
    )
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    told = capsys.readouterr().err
    assert "at concentration 0 are taken for treated: 3, such as" in told
    assert "'EMPTY'. If that is no treatment, name it by --vehicle" in told
    # A dose of nothing beside others of the same compound is one of them.
    inert = scored.index[scored["Metadata_compound"] == "inert"]
    scored.loc[scored["Metadata_compound"] == "EMPTY", "Metadata_compound"] = None
    scored.loc[inert[:2], "Metadata_concentration"] = 0.0
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    assert "at concentration 0" not in capsys.readouterr().err


def test_positive_controls_are_at_least_three(scored, tmp_path, capsys):
    infected = untreated_infected(scored)
    scored = scored.drop(index=scored.index[infected][2:])
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 1
    assert "'infected': 2 on all plates" in capsys.readouterr().err


def test_results_take_the_place_of_a_link(scored, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    (tmp_path / "wells").symlink_to(tmp_path / "disk")
    assert score(scored, tmp_path / "wells.csv", *STATES)[0] == 0
    assert (tmp_path / "wells").is_symlink()
    assert (tmp_path / "disk/report.html").is_file()


@pytest.mark.parametrize(
    "command", [["fit", "images"], ["embed", "model", "images"], ["generate", "model"]]
)
def test_a_folder_is_no_file_to_write(command, tmp_path, capsys):
    out = tmp_path / "folder.tif"
    out.mkdir()
    assert run(*command, "--out", out, "--overwrite") == 1
    assert "is a folder: name a file in it" in capsys.readouterr().err

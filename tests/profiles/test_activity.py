"""Agreement and distance are what their formulas say, p-values what they promise."""

from contextlib import nullcontext
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cosine, euclidean
from scipy.stats import binom, kstest
from sklearn.decomposition import PCA

from gandl.profiles import (
    ControlScaler,
    TypicalVariationNormalizer,
    energy_distance,
    replicate_consistency,
)

FUNCTIONS = [replicate_consistency, energy_distance]


def screen(n_treatments=3, n_replicates=4, n_controls=40, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"drug{k:03}" for k in range(n_treatments)]
    y = np.array(["DMSO"] * n_controls + list(np.repeat(names, n_replicates)))
    X = rng.normal(size=(len(y), 5))
    X[y == names[0]] += shift
    return X, y


def test_cosine_by_a_naive_loop():
    X, y = screen(shift=1.0)
    table = replicate_consistency(X, y, control="DMSO", random_state=0)
    for name, row in table.iterrows():
        mine = X[y == name]
        pairs = [
            1 - cosine(mine[i], mine[j]) for i in range(4) for j in range(4) if i < j
        ]
        assert row["cosine"] == pytest.approx(np.mean(pairs))


def test_energy_distance_by_a_naive_loop():
    X, y = screen(shift=1.0)
    table = energy_distance(X, y, control="DMSO", random_state=0)
    controls = X[y == "DMSO"]

    def mean_of_pairs(rows):
        return np.mean([euclidean(a, b) for i, a in enumerate(rows) for b in rows[:i]])

    for name, row in table.iterrows():
        mine = X[y == name]
        between = np.mean([euclidean(a, c) for a in mine for c in controls])
        expected = 2 * between - mean_of_pairs(mine) - mean_of_pairs(controls)
        assert row["energy_distance"] == pytest.approx(expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_shifted_treatment_is_found_and_no_other(function):
    X, y = screen(n_treatments=20, shift=3.0)
    table = function(X, y, control="DMSO", random_state=0)
    assert list(table.index[table["q_value"] < 0.05]) == ["drug000"]
    assert table["n_replicates"].tolist() == [4] * 20


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("n_replicates", [2, 6])
def test_p_values_without_effect_are_uniform(function, n_replicates):
    X, y = screen(300, n_replicates, n_controls=300)
    p = function(X, y, control="DMSO", n_null=2000, random_state=0)["p_value"]
    assert kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("function", FUNCTIONS)
def test_after_normalisation_by_other_controls_inert_treatments_are_not_found(function):
    """As `TypicalVariationNormalizer` asks; by the same controls, many are found."""
    found = {"others": [], "same": []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        y = np.array(["DMSO"] * 48 + [f"drug{k}" for k in range(20) for _ in range(3)])
        X = rng.normal(size=(len(y), 60)) @ rng.normal(size=(60, 60))
        for which, learned in (("others", slice(0, 24)), ("same", slice(24, 48))):
            profiles = TypicalVariationNormalizer().fit(X[learned]).transform(X)
            told = pytest.warns(UserWarning, match="centred .*, and whitened by them:")
            with told if which == "same" else nullcontext():
                table = function(profiles[24:], y[24:], control="DMSO", random_state=0)
            found[which].append((table["p_value"] < 0.05).mean())
    assert np.mean(found["others"]) < 0.08
    assert np.mean(found["same"]) > 0.2


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("n", "replicates", "are_few"),
    [(4, 1, True), (12, 1, False), (12, 2, True), (100, 2, False)],
)
def test_controls_that_plates_were_centred_by_are_told(
    function, n, replicates, are_few
):
    """Replicates on one plate share the error of its centre, controls have none."""
    y = np.tile(["DMSO"] * n + ["drug"] * replicates, 3)
    batch = np.repeat(np.arange(3), n + replicates)
    X = np.random.default_rng(0).normal(size=(len(y), 5))
    how = {"control": "DMSO", "batch": batch, "random_state": 0}
    scaled = ControlScaler(control="DMSO").fit_transform(X, y, batch=batch)
    few = pytest.warns(UserWarning, match="is centred by the very controls that t")
    with few if are_few else nullcontext():
        function(scaled, y, **how)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_rows_that_were_rotated_are_not_called_whitened(function):
    y = np.array(["DMSO"] * 60 + ["drug"])
    X = np.random.default_rng(0).normal(size=(61, 4)) * [1, 2, 4, 8]
    X = PCA().fit(X[:60]).transform(X)
    function(X, y, control="DMSO", random_state=0)


def test_null_of_energy_distance_by_a_naive_loop():
    """Draws of the controls and the treatment's rows, from the rest of them."""
    X, y = screen(2, n_replicates=3, n_controls=6, seed=1)
    table = energy_distance(X, y, control="DMSO", n_null=50, random_state=3)
    rng = np.random.RandomState(3)
    draws = rng.random_sample((50, 9)).argsort(axis=1)[:, :3]
    for name, row in table.iterrows():
        pool = np.vstack([X[y == "DMSO"], X[y == name]])
        null = []
        for drawn in draws:
            relabelled = np.full(9, "rest", dtype=object)
            relabelled[drawn] = "drawn"
            one = energy_distance(pool, relabelled, control="rest", n_null=1)
            null.append(one["energy_distance"].item())
        as_far = np.array(null) >= row["energy_distance"] - 1e-9
        assert row["p_value"] == pytest.approx((1 + as_far.sum()) / 51)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_order_of_rows_seed_and_missing_names(function):
    X, y = screen(shift=2.0)
    first = function(X, y, control="DMSO", random_state=0)
    pd.testing.assert_frame_equal(first, function(X, y, control="DMSO", random_state=0))
    with_more = np.vstack([X, X[:2] + 100]), np.append(y, [None, np.nan])
    pd.testing.assert_frame_equal(
        first, function(*with_more, control=["DMSO"], random_state=0)
    )


def test_a_single_replicate():
    X, y = screen(2, 1, shift=10.0)
    agreement = replicate_consistency(X, y, control="DMSO", random_state=0)
    assert agreement[["cosine", "p_value", "q_value"]].isna().all(axis=None)
    distance = energy_distance(X, y, control="DMSO", random_state=0)
    assert distance["n_draws"].tolist() == [41, 41]
    assert distance.loc["drug000", "p_value"] == pytest.approx(1 / 41)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_errors(function):
    X, y = screen()
    with pytest.raises(ValueError, match="No row of y is 'water'"):
        function(X, y, control="water")
    with pytest.raises(ValueError, match="control is to name"):
        function(X, y, control=None)
    with pytest.raises(ValueError, match="All rows of y are controls"):
        function(X[:40], y[:40], control="DMSO")
    with pytest.raises(ValueError, match="n_null is at least 1, got 0"):
        function(X, y, control="DMSO", n_null=0)
    with pytest.raises(ValueError, match="NaN"):
        function(np.full_like(X, np.nan), y, control="DMSO")


def test_a_row_of_zeros_has_no_cosine():
    X, y = screen()
    X[3] = 0
    with pytest.raises(ValueError, match="Row 3 is all zeros"):
        replicate_consistency(X, y, control="DMSO")


@pytest.mark.parametrize("n_controls", [8, 12])
def test_cosines_of_few_controls_are_significant_no_more_often_than_is_said(n_controls):
    p_values = []
    for seed in range(40):
        X, y = screen(8, n_replicates=8, n_controls=n_controls, seed=seed)
        table = replicate_consistency(
            X, y, control="DMSO", n_null=200, random_state=seed
        )
        p_values += table["p_value"].tolist()
    # By draws of controls alone, which are all of them: nearly half.
    assert np.mean(np.array(p_values) < 0.05) < 0.1


def test_null_of_cosines_by_a_naive_loop():
    X, y = screen(2, n_replicates=4, n_controls=6, seed=1)
    table = replicate_consistency(X, y, control="DMSO", n_null=50, random_state=3)
    rng = np.random.RandomState(3)
    draws = rng.random_sample((50, 10)).argsort(axis=1)[:, :4]
    for name, row in table.iterrows():
        pool = np.concatenate([X[y == "DMSO"], X[y == name]])
        null = [
            np.mean([1 - cosine(a, b) for i, a in enumerate(p) for b in p[:i]])
            for p in (pool[d] for d in draws)
        ]
        expected = (1 + (np.array(null) >= row["cosine"] - 1e-12).sum()) / 51
        assert row["p_value"] == pytest.approx(expected)


def plates_of_a_screen(seed, n_controls=16):
    """Three plates whose centres are known from controls alone, to some error."""
    rng = np.random.default_rng(seed)
    n = n_controls + 60
    plate = np.repeat(["P1", "P2", "P3"], n)
    drugs = [f"{p}drug{k}" for p in range(3) for k in range(20) for _ in range(3)]
    y = np.concatenate(
        [
            np.append(["DMSO"] * n_controls, drugs[60 * p : 60 * p + 60])
            for p in range(3)
        ]
    )
    X = rng.normal(size=(3 * n, 100)) + np.repeat(rng.normal(size=(3, 100)), n, axis=0)
    y[np.flatnonzero(y == "DMSO")[::2]] = "scale"
    X = ControlScaler(control="scale").fit(X, y, batch=plate).transform(X, batch=plate)
    others = y != "scale"
    return X[others], y[others], plate[others]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_batch_keeps_what_a_plate_shares_from_being_an_effect(function):
    found = {True: [], False: []}
    for seed in range(3):
        X, y, plate = plates_of_a_screen(seed)
        for told in found:
            batch = plate if told else None
            table = function(X, y, control="DMSO", batch=batch, random_state=0)
            found[told] += table["p_value"].lt(0.05).tolist()
    assert np.mean(found[True]) < binom.ppf(0.999, 180, 0.05) / 180
    assert np.mean(found[False]) > 0.15


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_batch_is_none(function):
    X, y = screen(shift=1.0)
    how = {"control": "DMSO", "random_state": 0}
    pd.testing.assert_frame_equal(
        function(X, y, **how), function(X, y, batch=["P1"] * len(y), **how)
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_draws_are_of_the_batches_of_a_treatment(function):
    """Controls of another batch lie elsewhere: they are in no draw, whatever the order
    of rows.
    """
    rng = np.random.default_rng(0)
    y = np.array(["DMSO"] * 24 + ["inert"] * 4 + ["active"] * 4)
    batch = np.array(["P1"] * 12 + ["P2"] * 12 + ["P2", "P1"] * 4)
    X = rng.normal(size=(32, 5)) + np.where(batch == "P1", 9, -9)[:, None]
    X[-4:] += [6, -6, 0, 0, 0]
    order = rng.permutation(32)
    for rows in (np.arange(32), order):
        table = function(
            X[rows], y[rows], control="DMSO", batch=batch[rows], random_state=0
        )
        assert table.loc["inert", "p_value"] > 0.05 > table.loc["active", "p_value"]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("n_controls", [1, 3, 4])
def test_few_controls_of_a_plate_are_no_effect(function, n_controls):
    """Draws of three controls alone would be one and the same."""
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        plate = np.repeat(["P1", "P2", "P3"], n_controls + 3)
        y = np.where(np.tile(np.arange(n_controls + 3) < n_controls, 3), "DMSO", plate)
        X = rng.normal(size=(len(y), 20)) + 5 * (plate == "P2")[:, None]
        table = function(
            X, y, control="DMSO", batch=plate, n_null=200, random_state=seed
        )
        p_values += table["p_value"].tolist()
    share = np.mean(np.array(p_values) < 0.05)
    assert share <= binom.ppf(0.999, 180, 0.05) / 180
    n_draws = min(comb(n_controls + 3, 3), 201)
    assert set(table["n_draws"]) == {n_draws}
    assert min(p_values) >= 1 / n_draws - 1e-12


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_batch_without_controls(function):
    X, y = screen()
    batch = np.where(np.arange(len(y)) < 51, "P1", "P2")
    with pytest.raises(ValueError, match="'drug002' has rows in batch 'P2', which has"):
        function(X, y, control="DMSO", batch=batch)
    with pytest.raises(ValueError, match="batch has shape"):
        function(X, y, control="DMSO", batch=["P1"])


def test_one_control_lies_apart_from_none():
    with pytest.raises(ValueError, match="There is one control"):
        energy_distance(np.eye(3), ["DMSO", "a", "a"], control="DMSO")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_all_draws_where_there_are_few(function):
    """Of two plates, in which treatments have two wells and one: 6 x 3 draws."""
    y = np.array(["DMSO", "DMSO", "a", "a", "DMSO", "DMSO", "a"])
    plate = np.array(["P1"] * 4 + ["P2"] * 3)
    X = np.random.default_rng(0).normal(size=(7, 4)) + 9 * (y == "a")[:, None]
    tables = [
        function(X, y, control="DMSO", batch=plate, n_null=n, random_state=n)
        for n in (18, 500)
    ]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["n_draws"].item() == 18
    assert tables[0]["p_value"].item() == pytest.approx(1 / 18)
    few = function(X, y, control="DMSO", batch=plate, n_null=17, random_state=0)
    assert few["n_draws"].item() == 18

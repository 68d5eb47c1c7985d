"""A screen with known truth, from embeddings to the table of compounds."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from gandl.profiles import ControlScaler
from gandl.scoring import (
    DoseResponseRegressor,
    DoseResponseScorer,
    HitCaller,
    PerturbationScorer,
)

PERTURBATION = PerturbationScorer(negative="mock", positive="infected")
DOSES = 10.0 ** np.arange(-2, 1, 0.5)


@parametrize_with_checks(
    [DoseResponseScorer(perturbation=PerturbationScorer(poor_controls="ignore"))]
)
def test_sklearn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def screen():
    """Embeddings of 2 plates, 30 controls of each kind, 24 compounds in 3 replicates.

    A third of the compounds rescues with an EC50 from 0.03 to 1, a third does nothing,
    a third moves cells elsewhere, away from infection too.
    """
    rng = np.random.default_rng(0)
    truth = pd.DataFrame(
        {
            "compound": [f"C{k:02}" for k in range(24)],
            "kind": np.repeat(["hit", "inactive", "toxic"], 8),
            "log_ec50": np.tile(np.linspace(-1.5, 0, 8), 3),
        }
    )
    wells = truth.loc[truth.index.repeat(18)].reset_index(drop=True)
    wells["dose"] = np.tile(np.repeat(DOSES, 3), 24)
    names = pd.DataFrame({"compound": np.repeat(["mock", "infected"], 30)})
    wells = pd.concat([names, wells], ignore_index=True)
    effect = 1 / (1 + 10 ** (1.5 * (wells["log_ec50"] - np.log10(wells["dose"]))))
    effect = effect.fillna(0).to_numpy()
    X = rng.normal(size=(len(wells), 10))
    sick = 10.0 * (wells["compound"] != "mock").to_numpy()
    X[:, 0] += sick * (1 - effect * wells["kind"].isin(["hit", "toxic"]))
    X[:, 1] += 30 * effect * (wells["kind"] == "toxic")
    plate = np.where(np.arange(len(X)) % 2, "P1", "P2")
    X[plate == "P2"] += 5
    return X, wells, plate, truth


def score(screen, controls_at_zero=False, **options):
    X, wells, plate, _ = screen
    treated = wells["dose"].notna().to_numpy()
    scorer = DoseResponseScorer(
        perturbation=PERTURBATION, controls_at_zero=controls_at_zero, **options
    )
    scorer.fit(X[~treated], wells["compound"][~treated], batch=plate[~treated])
    return scorer.dose_response(
        X[treated],
        wells["compound"][treated],
        wells["dose"][treated],
        batch=plate[treated],
    )


@pytest.mark.parametrize("controls_at_zero", [True, False])
def test_compounds_are_called_what_they_are(screen, controls_at_zero):
    table, truth = score(screen, controls_at_zero), screen[3]
    assert len(table) == 24
    both = truth.merge(table, on="compound")
    assert (both["call"] == both["kind"]).mean() > 0.95
    assert not (both.loc[both["kind"] == "toxic", "call"] == "hit").any()
    hits = both[both["kind"] == "hit"]
    error = np.abs(np.log10(hits["ec50"]) - hits["log_ec50"])
    assert error.median() < 0.15
    assert (
        (hits["ec50_low"] < hits["ec50"]) & (hits["ec50"] < hits["ec50_high"])
    ).all()
    assert (hits["slope"] < 0).all()
    assert both.loc[both["kind"] == "toxic", "toxic_from"].notna().all()


def test_many_features_and_few_controls_make_no_hits():
    """Thresholds are of controls left out: 960 features do not fool them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60 + 20 * 18, 960))
    X[:30, 0] -= 7
    y = np.repeat(["mock", "infected"], 30)
    scorer = DoseResponseScorer(perturbation=PERTURBATION).fit(X[:60], y)
    compound = np.repeat([f"C{k:02}" for k in range(20)], 18)
    table = scorer.dose_response(X[60:], compound, np.tile(np.repeat(DOSES, 3), 20))
    assert (table["call"] == "inactive").sum() >= 17


def test_table(screen):
    table = score(screen)
    assert table["q_value"].is_monotonic_increasing
    assert (table["q_value"] >= table["p_value"]).all()
    first = table.iloc[0]
    assert first["n_rows"] == 18
    np.testing.assert_allclose(first["concentrations"], DOSES)
    assert len(first["on"]) == len(first["off"]) == len(first["calls"]) == 6


def test_processes_and_order_change_nothing(screen):
    expected = score(screen)
    pd.testing.assert_frame_equal(score(screen, n_jobs=2), expected)
    X, wells, plate, truth = screen
    order = np.random.default_rng(1).permutation(len(X))
    shuffled = X[order], wells.iloc[order], plate[order], truth
    pd.testing.assert_frame_equal(score(shuffled), expected, rtol=1e-4)


def test_parts_are_taken_as_given(screen):
    curve, hits = DoseResponseRegressor(alpha=1e-9), HitCaller(quantile=0.2)
    table = score(screen, curve=curve, hits=hits)
    assert table["ec50"].notna().sum() < score(screen)["ec50"].notna().sum()
    assert not hasattr(curve, "p_value_")
    assert not hasattr(hits, "on_controls_")
    strict = score(screen, alpha=1e-30)
    assert not (strict["call"] == "hit").any()


def test_a_compound_of_one_dose_is_a_row_without_a_curve(screen):
    X, wells, plate, _ = screen
    scorer = DoseResponseScorer(perturbation=PERTURBATION)
    scorer.fit(X, wells["compound"], batch=plate)
    table = scorer.dose_response(X[60:63], ["C"] * 3, [1.0] * 3, batch=plate[60:63])
    assert np.isnan(table.loc[0, ["p_value", "q_value"]].astype(float)).all()
    assert np.isnan(table.loc[0, "ec50"])
    assert table.loc[0, "concentrations"] == [1.0]


@pytest.mark.parametrize(
    ("compound", "dose", "message"),
    [
        (["a", None, "a"], [1, 1, 1], "Row 1 has no compound"),
        (["a", "a", "a"], [1, np.nan, 1], "concentration contains NaN"),
        (["a", "a", "b"], [1, 1, -1], "Row 2 has a negative concentration, -1"),
        (["a", "a"], [1, 1, 1], "inconsistent numbers of samples"),
    ],
)
def test_errors(screen, compound, dose, message):
    X, wells, _, _ = screen
    scorer = DoseResponseScorer(perturbation=PERTURBATION).fit(X, wells["compound"])
    with pytest.raises(ValueError, match=message):
        scorer.dose_response(X[:3], compound, dose)


def test_controls_join_the_curve_at_zero_from_the_compounds_own_batches(screen):
    X, wells, batch, _ = screen
    y = wells["compound"].to_numpy()
    axis = clone(PERTURBATION).set_params(pooled=True)
    scorer = DoseResponseScorer(perturbation=axis).fit(X, y, batch=batch)
    fitted = scorer.perturbation_
    infected = fitted.control_kinds_ == 1
    of = batch[np.isin(y, [fitted.negative_, fitted.positive_])]
    on, dose = np.array([0.5, 0.2]), np.array([1.0, 3.0])
    for given, mine in (
        (None, infected),
        (["P1", "P1"], infected & (of == "P1")),
        (["P1", "P2"], infected),
    ):
        joined_dose, joined = scorer.curve_data(on, dose, given)
        np.testing.assert_array_equal(joined[:2], on)
        np.testing.assert_array_equal(joined[2:], fitted.control_scores_[mine, 0])
        np.testing.assert_array_equal(joined_dose[:2], dose)
        assert not joined_dose[2:].any()
    alone = scorer.set_params(controls_at_zero=False).curve_data(on, dose)
    np.testing.assert_array_equal(alone, (dose, on))


def test_controls_of_no_batch_join_the_curves_of_all(screen):
    X, wells, batch, _ = screen
    axis = clone(PERTURBATION).set_params(pooled=True)
    scorer = DoseResponseScorer(perturbation=axis).fit(X, wells["compound"])
    dose, _ = scorer.curve_data(np.zeros(3), np.ones(3), batch[:3])
    assert (dose == 0).sum() == (scorer.perturbation_.control_kinds_ == 1).sum() > 0


def test_batches_of_another_type_are_no_others(screen):
    X, wells, batch, _ = screen
    number = np.where(batch == "P1", 1, 2)
    axis = clone(PERTURBATION).set_params(pooled=True)
    scorer = DoseResponseScorer(perturbation=axis)
    scorer.fit(X, wells["compound"], batch=number)
    how = {"batch": number[60:63].astype(str)}
    with pytest.raises(ValueError, match=r"batch has '\d', where that of fit has \d"):
        scorer.dose_response(X[60:63], ["C"] * 3, np.ones(3), **how)
    # A plate that has no controls of its own is another matter.
    scorer.dose_response(X[60:63], ["C"] * 3, np.ones(3), batch=[3, 3, 3])


def test_rows_in_another_order_are_refused_where_labels_repeat(screen):
    X, wells, batch, _ = screen
    scorer = DoseResponseScorer(perturbation=PERTURBATION)
    scorer.fit(X, wells["compound"], batch=batch)
    treated = wells["dose"].notna()
    table = wells[treated].assign(plate=batch[treated])
    table.index = np.arange(len(table)) % 9  # as wells of several plates are
    X = pd.DataFrame(X[treated], table.index)
    table = table.sort_index(kind="stable")
    with pytest.raises(ValueError, match=r"to_numpy\(\); otherwise sort both alike"):
        scorer.dose_response(X, table["compound"], table["dose"], batch=table["plate"])


def test_a_column_of_concentrations(screen):
    X, wells, batch, _ = screen
    scorer = DoseResponseScorer(perturbation=PERTURBATION)
    scorer.fit(X, wells["compound"], batch=batch)
    how = {"batch": batch[60:63]}
    table = scorer.dose_response(X[60:63], ["C"] * 3, np.ones((3, 1)), **how)
    assert table.loc[0, "concentrations"] == [1.0]


def test_controls_at_zero_find_more_where_noise_is_large():
    """Drugs that rescue at all doses but the lowest, noise of half the effect."""
    rng = np.random.default_rng(0)
    doses = np.repeat([0.03, 0.1, 0.3, 1, 3, 10], 3)
    n_drugs = 60
    y = np.array(["mock"] * 36 + ["infected"] * 36 + ["drug"] * 18 * n_drugs)
    X = rng.normal(scale=0.5, size=(len(y), 1))
    X[36:72] += 1
    drug = np.repeat(np.arange(n_drugs), 18)
    works = drug < 30
    X[72:, 0] += np.where(works, 1 / (1 + (np.tile(doses, n_drugs) / 0.05) ** 2), 1)
    names = np.array([f"d{k:02}" for k in drug])
    found = {}
    for at_zero in (False, True):
        scorer = DoseResponseScorer(perturbation=PERTURBATION, controls_at_zero=at_zero)
        scorer.fit(X[:72], y[:72])
        table = scorer.dose_response(X[72:], names, np.tile(doses, n_drugs))
        active = set(table.loc[table["q_value"] < 0.05, "compound"])
        found[at_zero] = [len(active & set(names[works == k])) for k in (True, False)]
    assert found[True][0] > found[False][0] + 5
    assert found[True][1] <= 3


def test_compounds_that_do_nothing_are_hardly_called():
    rng = np.random.default_rng(0)
    n_drugs = 150
    y = np.repeat(["mock", "infected"], 100)
    X = rng.normal(size=(200 + 18 * n_drugs, 3))
    X[100:, 0] += 6
    drug = np.repeat([f"d{k:03}" for k in range(n_drugs)], 18)
    scorer = DoseResponseScorer(perturbation=PERTURBATION).fit(X[:200], y)
    dose = np.tile(np.repeat(DOSES, 3), n_drugs)
    calls = scorer.dose_response(X[200:], drug, dose)["call"]
    # 0.01 of compounds are meant to be.
    assert (calls == "toxic").mean() < 0.03
    assert not (calls == "hit").any()


@pytest.mark.parametrize("n_replicates", [1, 12])
def test_few_controls_do_not_make_compounds_toxic(n_replicates):
    """Twelve controls of each kind; 0.01 of inert compounds are meant to be called."""
    called = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        n_drugs, n = 30, 6 * n_replicates
        X = rng.normal(size=(24 + n * n_drugs, 20))
        X[12:, 0] += 10
        y, drug = np.repeat(["mock", "infected"], 12), np.repeat(range(n_drugs), n)
        scorer = DoseResponseScorer(perturbation=PERTURBATION).fit(X[:24], y)
        dose = np.tile(np.repeat(DOSES, n_replicates), n_drugs)
        called.append(scorer.dose_response(X[24:], drug, dose)["call"] != "inactive")
    assert np.mean(called) < 0.05


def test_one_control_that_was_not_infected_hides_no_hits():
    rng = np.random.default_rng(0)
    y = np.repeat(["mock", "infected"], 36)
    X = rng.normal(size=(72 + 18, 3))
    X[36:, 0] += 10
    X[36, 0] -= 10
    X[72:, 0] -= 6 / (1 + (0.1 / np.repeat(DOSES, 3)) ** 2)
    scorer = DoseResponseScorer(perturbation=PERTURBATION).fit(X[:72], y)
    table = scorer.dose_response(X[72:], ["drug"] * 18, np.repeat(DOSES, 3))
    assert table.loc[0, "call"] == "hit"


def one_compound(off, on=None, controls_at_zero=True):
    """Row of a compound in triplicate, with those effects at the six doses."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60 + 18, 10))
    X[30:, 0] += 10
    X[60:, 0] -= 10 * np.repeat(np.zeros(6) if on is None else on, 3)
    X[60:, 1] += np.repeat(off, 3)
    y = np.repeat(["mock", "infected", "drug"], [30, 30, 18])
    scorer = DoseResponseScorer(
        perturbation=PERTURBATION, controls_at_zero=controls_at_zero
    ).fit(X, y)
    return scorer.dose_response(X[60:], y[60:], np.repeat(DOSES, 3)).iloc[0]


def test_with_too_few_doses_for_a_curve_means_decide():
    """A library at one dose: what rescues is a hit, and one in 100 of the inert."""
    rng = np.random.default_rng(0)
    names = np.array([f"c{k:03}" for k in range(300)]).repeat(3)
    X = rng.normal(size=(40 + len(names), 3))
    X[20:, 0] += 8  # infected, and all treated
    X[40:55, 0] -= 8  # but five that rescue
    y = np.repeat(["healthy", "infected"], 20)
    scorer = DoseResponseScorer(
        perturbation=PerturbationScorer(negative="healthy", positive="infected")
    ).fit(X[:40], y)
    table = scorer.dose_response(X[40:], names, np.full(len(names), 3.0))
    assert table["q_value"].isna().all()
    hits = table.loc[table["call"] == "hit", "compound"]
    assert sorted(hits[:5]) == ["c000", "c001", "c002", "c003", "c004"]
    assert len(hits) <= 5 + 10
    # Beside compounds that have a curve, they are no tests to correct for.
    dose = np.full(len(names), 3.0)
    dose[:30] = np.tile([0.1, 0.3, 1], 10)
    mixed = scorer.dose_response(X[40:], names, dose).set_index("compound")
    tested = mixed["q_value"].notna()
    assert tested.sum() == 10
    alone = scorer.dose_response(X[40:70], names[:30], dose[:30]).set_index("compound")
    assert (alone["q_value"] == mixed.loc[alone.index, "q_value"]).all()


def test_toxicity_lasts_to_the_highest_dose():
    stray = one_compound(off=[0, 30, 0, 0, 0, 0])
    assert stray["call"] == "inactive"
    assert np.isnan(stray["toxic_from"])
    assert stray["calls"] == ["inactive"] * 6
    lasting = one_compound(off=[0, 30, 0, 0, 30, 30])
    assert lasting["call"] == "toxic"
    assert lasting["toxic_from"] == DOSES[4]
    assert lasting["calls"] == ["inactive"] * 4 + ["toxic"] * 2


def test_a_dose_with_side_effects_is_no_hit():
    """Also where they do not last."""
    row = one_compound(off=[0, 0, 0, 0, 30, 0], on=[0, 0, 0.2, 0.5, 1, 1])
    assert row["calls"][4:] == ["inactive", "hit"]


def test_curve_leaves_toxic_doses_out():
    """Poisoned cells lose the signs of infection: that is no rescue."""
    poison = one_compound(off=[0, 0, 0, 0, 30, 40], on=[0, 0, 0, 0, 1, 1])
    assert poison["call"] == "toxic"
    drug = one_compound(off=[0, 0, 0, 0, 0, 40], on=[0, 0.1, 0.5, 0.9, 1, 0])
    assert drug["call"] == "hit"
    assert drug["toxic_from"] == DOSES[5]
    assert not drug["non_monotonic"]
    assert drug["ec50"] == pytest.approx(DOSES[2], rel=0.4)


@pytest.mark.parametrize("controls_at_zero", [True, False])
def test_a_compound_may_be_toxic_at_all_doses(controls_at_zero):
    row = one_compound(off=[30] * 6, on=[1] * 6, controls_at_zero=controls_at_zero)
    assert row["call"] == "toxic"
    assert row["toxic_from"] == DOSES[0]
    assert row["p_value"] == row["q_value"] == 1


def test_where_no_control_joins_too_few_doses_are_called_by_their_means():
    rng = np.random.default_rng(0)
    plate = np.repeat(["A", "B"], [32, 2])  # of B, none can be held out
    y = np.tile(["mock", "infected"], 17)
    X = rng.normal(size=(34, 4))
    X[y == "infected", 0] += 10
    axis = clone(PERTURBATION).set_params(poor_controls="ignore")
    fitted = DoseResponseScorer(perturbation=axis).fit(X, y, batch=plate)
    dose = np.repeat([0.1, 1, 10], 4)
    T = rng.normal(size=(12, 4))
    T[:, 0] += 10 * np.repeat([1, 0.2, 0], 4)
    row = fitted.dose_response(T, ["drug"] * 12, dose, batch=["B"] * 12).iloc[0]
    assert row["calls"] == ["inactive", "hit", "hit"]
    assert np.isnan(row["p_value"])
    assert row["call"] == "hit"
    on_a = fitted.dose_response(T, ["drug"] * 12, dose, batch=["A"] * 12).iloc[0]
    assert on_a["p_value"] < 0.01


def test_few_controls_of_a_plate_are_told():
    """Three on one plate of two had made every toxic compound pass for inactive."""
    rng = np.random.default_rng(0)
    plate = np.repeat(["A", "B"], [24, 17])
    y = np.r_[np.repeat(["mock", "infected"], 12), ["mock"] * 5, ["infected"] * 12]
    X = rng.normal(size=(41, 4)) + 20 * (y == "infected")[:, None]
    axis = clone(PERTURBATION).set_params(
        scaler=ControlScaler(control="mock"), axis="discriminant", pooled=True
    )
    with pytest.warns(UserWarning, match=r"controls in batches: B\. .*: leave these"):
        DoseResponseScorer(perturbation=axis).fit(X, y, batch=plate)
    borrowing = clone(axis).set_params(scaler__prior_df=6)
    DoseResponseScorer(perturbation=borrowing).fit(X, y, batch=plate)  # says nothing
    kept = plate == "A"
    DoseResponseScorer(perturbation=axis).fit(X[kept], y[kept], batch=plate[kept])


def test_concentrations_that_differ_by_rounding_are_one(screen):
    X, wells, plate, _ = screen
    scorer = DoseResponseScorer(perturbation=PERTURBATION)
    scorer.fit(X, wells["compound"], batch=plate)
    rows = wells["dose"].notna().to_numpy()
    dose = wells["dose"][rows].to_numpy()
    asked = (X[rows], wells["compound"][rows])
    rounded = dose * np.tile([1, 1 + 1e-9, 1 + 2e-15], len(dose) // 3)
    pd.testing.assert_frame_equal(
        scorer.dose_response(*asked, rounded, batch=plate[rows]),
        scorer.dose_response(*asked, dose, batch=plate[rows]),
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_does_not_depend_on_what_transform_gives_out(library):
    pytest.importorskip(library)
    rng = np.random.default_rng(0)
    y = np.repeat(["mock", "infected", "drug"], 20)
    X = rng.normal(size=(60, 4))
    X[y == "infected", 0] += 10
    asked = (X[40:], y[40:], np.tile([0.1, 0.3, 1, 3, 10], 4))
    expected = DoseResponseScorer(perturbation=PERTURBATION).fit(X, y)
    with config_context(transform_output=library):
        found = DoseResponseScorer(perturbation=PERTURBATION).fit(X, y)
        pd.testing.assert_frame_equal(
            found.dose_response(*asked), expected.dose_response(*asked)
        )


def test_of_inert_compounds_on_one_plate_each_no_more_are_called():
    """Replicates on a plate share its scaling; of means at one dose, 0.01 are meant."""
    rng, n_plates = np.random.default_rng(0), 20
    plate = np.repeat(np.arange(n_plates), 24)
    y = np.tile(np.repeat(["mock", "infected"], 12), n_plates)
    X = rng.normal(size=(len(y), 30))
    X[:, 0] += 6 * (y == "infected")
    axis = PerturbationScorer(
        negative="mock",
        positive="infected",
        scaler=ControlScaler(control="mock", prior_df=6),
        axis="discriminant",
        pooled=True,
    )
    scorer = DoseResponseScorer(perturbation=axis).fit(X, y, batch=plate)
    compound = np.repeat(np.arange(200), 6)
    inert = rng.normal(size=(1200, 30))
    inert[:, 0] += 6
    one, several = compound % n_plates, np.arange(1200) % n_plates
    for batch in (one, several):
        table = scorer.dose_response(inert, compound, np.ones(1200), batch=batch)
        assert (table["call"] == "hit").mean() <= 0.02
        assert (table["call"] == "toxic").mean() <= 0.03
    # A half rescue is found all the same.
    inert[:, 0] -= 3
    table = scorer.dose_response(inert, compound, np.ones(1200), batch=several)
    assert (table["call"] == "hit").mean() > 0.95


def test_four_wells_at_four_doses_are_judged_by_their_means(screen):
    """As three of them are: no curve can be fitted to four responses."""
    X, wells, plate, _ = screen
    y = wells["compound"].to_numpy()
    scorer = DoseResponseScorer(perturbation=PERTURBATION, controls_at_zero=False)
    scorer.fit(X, y, batch=plate)
    rows = np.arange(60, 78, 3)[-4:]  # of a rescuing compound
    for some in (rows, rows[1:]):
        dose = wells["dose"].to_numpy()[some]
        table = scorer.dose_response(X[some], y[some], dose, batch=plate[some])
        assert table.loc[0, "call"] == "hit"
        assert np.isnan(table.loc[0, "p_value"])


def test_batches_of_several_types(screen):
    X, wells, plate, _ = screen
    y, dose = wells["compound"].to_numpy(), wells["dose"].to_numpy()
    expected = score(screen, controls_at_zero=True)
    names = {"P1": 1, "P2": ("HRCE", "2b")}
    batch = pd.Series(plate).map(names)
    scorer = DoseResponseScorer(perturbation=PERTURBATION).fit(X, y, batch=batch)
    treated = dose > 0
    table = scorer.dose_response(
        X[treated], y[treated], dose[treated], batch=batch[treated]
    )
    pd.testing.assert_frame_equal(table, expected)

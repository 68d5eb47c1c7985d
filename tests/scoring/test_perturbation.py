"""On and off the axis between controls, and whether it can be trusted."""

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gandl.profiles import ControlScaler, TypicalVariationNormalizer
from gandl.scoring import DoseResponseScorer, PerturbationScorer
from gandl.scoring._separation import separation


@parametrize_with_checks(
    [
        PerturbationScorer(poor_controls="ignore"),
        PerturbationScorer(poor_controls="ignore", axis="discriminant"),
    ]
)
def test_sklearn(estimator, check):
    check(estimator)


def screen(n=40, d=6, distance=8.0, seed=0):
    """Mock, infected and treated rows; infection moves the first feature."""
    rng = np.random.default_rng(seed)
    y = np.repeat(["mock", "infected", "treated"], n)
    X = rng.normal(size=(3 * n, d)) + 5
    X[y == "infected", 0] += distance
    X[y == "treated", 0] += distance / 2
    X[y == "treated", 1] += 2 * distance
    return X, y


def scorer(**options):
    return PerturbationScorer(negative="mock", positive="infected", **options)


@pytest.mark.parametrize("axis", ["mean", "discriminant"])
def test_controls_are_at_0_and_1_and_side_effects_are_off(axis):
    X, y = screen()
    scores = scorer(axis=axis).fit_transform(X, y)
    mean = {kind: scores[y == kind].mean(axis=0) for kind in np.unique(y)}
    np.testing.assert_allclose(mean["mock"][0], 0, atol=1e-9)
    np.testing.assert_allclose(mean["infected"][0], 1, atol=1e-9)
    np.testing.assert_allclose(mean["treated"], [0.5, 2], atol=0.2)


def test_formula():
    X, y = screen()
    m0, m1 = X[y == "mock"].mean(axis=0), X[y == "infected"].mean(axis=0)
    v = m1 - m0
    for x, (on, off) in zip(X, scorer().fit_transform(X, y), strict=True):
        expected = (x - m0) @ v / (v @ v)
        assert on == pytest.approx(expected)
        rest = np.linalg.norm(x - m0 - expected * v) / np.linalg.norm(v)
        assert off == pytest.approx(rest)


def test_discriminant_separates_where_the_mean_is_drowned():
    X, y = screen(n=300, distance=3.0)
    rng = np.random.default_rng(1)
    noise = 10 * rng.normal(size=len(X))
    X[:, 0] += noise
    X[:, 2] += noise
    found = {
        a: scorer(axis=a, poor_controls="ignore").fit(X, y).separation_
        for a in ("mean", "discriminant")
    }
    assert found["discriminant"].loc["all", "auc"] > 0.7
    assert found["mean"].loc["all", "auc"] < 0.65


def test_separation_is_of_controls_not_fitted_on():
    """Without any difference, AUC is about a half, in however many dimensions."""
    X, y = screen(n=30, d=500, distance=0.0)
    for axis in ("mean", "discriminant"):
        fitted = scorer(axis=axis, poor_controls="ignore").fit(X, y)
        on = fitted.transform(X)[:, 0]
        seen = separation(on[y == "mock"], on[y == "infected"])["auc"]
        assert seen > 0.95
        assert abs(fitted.separation_.loc["all", "auc"] - 0.5) < 0.25


@pytest.mark.parametrize("axis", ["mean", "discriminant"])
def test_scores_of_controls_are_by_axes_they_were_not_fitted_on(axis):
    X, y = screen(n=10)
    fitted = scorer(axis=axis, poor_controls="ignore").fit(X, y)
    controls = np.flatnonzero(y != "treated")
    assert fitted.control_kinds_.tolist() == (y[controls] == "infected").tolist()
    for row, expected in zip(controls, fitted.control_scores_, strict=True):
        others = np.arange(len(X)) != row
        other = scorer(axis=axis, poor_controls="ignore").fit(X[others], y[others])
        scores = other.transform(X[[row]])[0]
        # In units of the axis that other rows are scored by.
        lengths = [np.linalg.norm(s.directions_) for s in (other, fitted)]
        scores[1] *= lengths[0] / lengths[1]
        if axis == "mean":
            np.testing.assert_allclose(expected, scores)
        else:  # folds of two
            np.testing.assert_allclose(expected, scores, atol=0.2)


@pytest.mark.parametrize("axis", ["mean", "discriminant"])
def test_side_effects_of_controls_are_as_large_as_those_of_wells_like_them(axis):
    """Few controls and many features: else inert compounds would be called toxic."""
    rng = np.random.default_rng(0)
    y = np.repeat(["mock", "infected"], 5)
    ratios = []
    for _ in range(20):
        X = rng.normal(size=(10, 300))
        X[5:, ::10] += 1
        fitted = scorer(axis=axis, poor_controls="ignore").fit(X, y)
        wells = rng.normal(size=(50, 300))
        wells[:, ::10] += 1
        held_out = fitted.control_scores_[fitted.control_kinds_ == 1, 1]
        ratios.append(held_out.mean() / fitted.transform(wells)[:, 1].mean())
    assert abs(np.mean(ratios) - 1) < 0.025


def test_one_control_of_a_kind_separates_nothing():
    assert all(np.isnan(list(separation(np.zeros(1), np.ones(5)).values())))
    X, y = screen(n=10)
    fitted = scorer(poor_controls="ignore").fit(X, y)
    rows = [np.flatnonzero(y == kind)[0] for kind in ("mock", "infected")]
    assert np.isnan(fitted.score(X[rows], y[rows]))


def test_the_control_that_is_not_named_is_the_first_or_last_of_the_others():
    X, y = screen(n=10)
    kept = y != "treated"
    X, y = X[kept], y[kept]
    for given in ({"positive": "infected"}, {"negative": "mock"}):
        fitted = PerturbationScorer(**given).fit(X, y)
        assert (fitted.negative_, fitted.positive_) == ("mock", "infected")
    with pytest.raises(ValueError, match="negative and positive are both 'mock'"):
        PerturbationScorer(negative="mock", positive="mock").fit(X, y)


def test_separation_formulas():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(3, 2, size=30).round()
    found = separation(a, b)
    s0, s1, d = a.std(ddof=1), b.std(ddof=1), b.mean() - a.mean()
    assert found["z_prime"] == pytest.approx(1 - 3 * (s0 + s1) / d)
    assert found["ssmd"] == pytest.approx(d / np.sqrt(s0**2 + s1**2))
    assert found["cohens_d"] == pytest.approx(d / np.sqrt((s0**2 + s1**2) / 2))
    labels = np.repeat([0, 1], [50, 30])
    assert found["auc"] == pytest.approx(roc_auc_score(labels, np.append(a, b)))


def test_an_axis_a_plate():
    X, y = screen()
    plate = np.tile(["P1", "P2"], 60)
    X[plate == "P2"] = 3 * X[plate == "P2"] - 100
    pooled = scorer(poor_controls="ignore").fit_transform(X, y)
    each = scorer().fit(X, y, batch=plate)
    scores = each.transform(X, batch=plate)
    assert list(each.separation_.index) == ["P1", "P2"]
    assert (each.separation_["z_prime"] > 0).all()
    for name in ("P1", "P2"):
        mine = plate == name
        alone = scorer().fit_transform(X[mine], y[mine])
        np.testing.assert_allclose(scores[mine], alone)
    treated = y == "treated"
    assert scores[treated, 0].std() < 0.5 * pooled[treated, 0].std()


def test_poor_controls_are_told():
    X, y = screen(distance=0.0)
    with pytest.warns(UserWarning, match="do not separate.* 1 of 1 batches: all"):
        scorer().fit(X, y)
    with pytest.raises(ValueError, match="do not separate"):
        scorer(poor_controls="raise").fit(X, y)
    few = np.r_[0, 40:80]
    with pytest.warns(UserWarning, match="cannot be judged"):
        fitted = scorer().fit(X[few], y[few])
    assert np.isnan(fitted.separation_.loc["all", "auc"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer().fit(*screen())


def test_score_is_the_z_prime_of_new_controls():
    X, y = screen()
    new, labels = screen(seed=1)
    fitted = scorer().fit(X, y)
    on = fitted.transform(new)[:, 0]
    expected = separation(on[labels == "mock"], on[labels == "infected"])["z_prime"]
    assert fitted.score(new, labels) == expected


def test_rows_are_independent_and_others_not_looked_at():
    X, y = screen()
    fitted = scorer().fit(X, y)
    controls = y != "treated"
    other = scorer().fit(X[controls], y[controls])
    np.testing.assert_array_equal(fitted.transform(X), other.transform(X))
    np.testing.assert_allclose(fitted.transform(X[7:9]), fitted.transform(X)[7:9])


def test_refit_forgets():
    X, y = screen()
    estimator = PerturbationScorer(poor_controls="ignore").fit(X, y)
    assert (estimator.negative_, estimator.positive_) == ("infected", "treated")
    estimator.fit(X, np.where(y == "mock", 0, 1))
    assert (estimator.negative_, estimator.positive_) == (0, 1)


def test_in_a_pipeline_with_names():
    X, y = screen()
    with sklearn.config_context(
        enable_metadata_routing=True, transform_output="pandas"
    ):
        batches = scorer().set_fit_request(batch=True)
        batches.set_transform_request(batch=True)
        model = make_pipeline(StandardScaler(), batches)
        plate = np.tile(["P1", "P2"], 60)
        table = model.fit(X, y, batch=plate).transform(X, batch=plate)
    assert list(table.columns) == ["on_perturbation", "off_perturbation"]


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({"negative": "DMSO"}, None, "No row of y is negative='DMSO'"),
        ({}, ["mock"] * 120, "y has 1 class"),
        ({}, ["mock"] * 119, "X has 120, y 119"),
    ],
)
def test_errors(options, y, message):
    X, labels = screen()
    with pytest.raises(ValueError, match=message):
        PerturbationScorer(**options).fit(X, labels if y is None else y)


@pytest.mark.parametrize("axis", ["mean", "discriminant"])
def test_pooled_is_one_axis_and_a_separation_a_batch(axis):
    X, y = screen()
    plate = np.where(np.arange(len(X)) % 3 == 0, "P1", "P2")
    pooled = scorer(axis=axis, pooled=True).fit(X, y, batch=plate)
    one = scorer(axis=axis).fit(X, y)
    np.testing.assert_array_equal(pooled.weights_, one.weights_)
    np.testing.assert_array_equal(pooled.control_scores_, one.control_scores_)
    np.testing.assert_array_equal(pooled.transform(X, batch=plate), one.transform(X))
    is_control = np.isin(y, ["mock", "infected"])
    for name in ("P1", "P2"):
        mine = plate[is_control] == name
        on = pooled.control_scores_[mine, 0]
        infected = pooled.control_kinds_[mine] == 1
        expected = roc_auc_score(infected, on)
        assert pooled.separation_.loc[name, "auc"] == pytest.approx(expected)
    # A plate that fit did not see is scored all the same.
    pooled.transform(X, batch=["P3"] * len(X))


def test_pooled_batches_may_lack_a_kind_of_control():
    X, y = screen()
    plate = np.where(y == "infected", "P2", "P1")
    with pytest.warns(UserWarning, match="in 2 of 2 batches"):
        fitted = scorer(pooled=True).fit(X, y, batch=plate)
    assert fitted.separation_["auc"].isna().all()
    assert fitted.separation_.loc["P2", "n_negative"] == 0


def test_a_batch_without_a_kind_of_control():
    X, y = screen()
    batch = np.where(y == "infected", "P2", "P1")
    with pytest.raises(ValueError, match="Batch 'P1' has 40 negative and 0 positive"):
        scorer().fit(X, y, batch=batch)


@pytest.mark.parametrize("n", [2, 3])
def test_few_controls(n):
    X, y = screen(n=n)
    fitted = scorer(axis="discriminant", poor_controls="ignore").fit(X, y)
    assert np.isnan(fitted.separation_.loc["all", "auc"]) == (n == 2)
    one = [0, n]
    with pytest.raises(ValueError, match='too few for a discriminant: use axis="mean"'):
        scorer(axis="discriminant").fit(X[one], y[one])


def test_an_axis_that_fails_on_controls_left_out_is_poor():
    """Left-out positive controls score below negative ones."""
    X, y = [[1], [-1], [1.01], [-0.99]], ["mock"] * 2 + ["infected"] * 2
    with pytest.warns(UserWarning, match="do not separate"):
        fitted = scorer().fit(X, y)
    assert fitted.separation_.loc["all", "cohens_d"] < -0.5
    assert fitted.separation_.loc["all", "z_prime"] == -np.inf


def test_missing_labels_are_no_controls():
    X, y = screen()
    gaps = pd.array(np.where(y == "treated", None, y), dtype="string")
    np.testing.assert_allclose(
        scorer().fit_transform(X, gaps), scorer().fit_transform(X, y)
    )


def test_equal_means():
    with pytest.raises(ValueError, match="both controls have the same mean"):
        scorer().fit(np.ones((4, 2)), ["mock", "infected"] * 2)


def plates(n_plates=8, n=4, d=100, shift=0.0, seed=0):
    """Controls of plates that differ, n of each kind, and where they are."""
    rng = np.random.default_rng(seed)
    plate = np.repeat([f"P{k}" for k in range(n_plates)], 2 * n)
    y = np.tile(np.repeat(["mock", "infected"], n), n_plates)
    X = rng.normal(size=(len(y), d)) + rng.normal(size=(n_plates, d)).repeat(2 * n, 0)
    X[y == "infected", 0] += shift
    return X, y, plate


@pytest.mark.parametrize("axis", ["mean", "discriminant"])
def test_controls_that_are_alike_do_not_separate_by_the_scaler(axis):
    found = {"beforehand": [], "held out": []}
    for seed in range(5):
        X, y, plate = plates(seed=seed)
        scaler = ControlScaler(control="mock")
        options = {"axis": axis, "pooled": True, "poor_controls": "ignore"}
        Z = scaler.fit_transform(X, y, batch=plate)
        for name, fitted in {
            "beforehand": scorer(**options).fit(Z, y, batch=plate),
            "held out": scorer(scaler=scaler, **options).fit(X, y, batch=plate),
        }.items():
            found[name].append(fitted.separation_["cohens_d"].mean())
    assert np.mean(found["beforehand"]) > 0.3
    assert abs(np.mean(found["held out"])) < 0.25


def test_a_scaler_is_part_of_the_scores():
    X, y, plate = plates(d=6, shift=8.0)
    scaler = ControlScaler(control="mock")
    Z = scaler.fit_transform(X, y, batch=plate)
    options = {"pooled": True, "axis": "discriminant"}
    beforehand = scorer(**options).fit(Z, y, batch=plate)
    fitted = scorer(scaler=scaler, **options).fit(X, y, batch=plate)
    scores = fitted.transform(X, batch=plate)
    np.testing.assert_allclose(scores, beforehand.transform(Z, batch=plate))
    assert fitted.separation_["separate"].all()
    order = np.random.default_rng(0).permutation(len(X))
    again = scorer(scaler=scaler, **options)
    again.fit(X[order], y[order], batch=plate[order])
    np.testing.assert_allclose(again.control_scores_, fitted.control_scores_[order])
    with pytest.raises(ValueError, match="No controls of batch 'P9'"):
        fitted.transform(X[:1], batch=["P9"])


def test_a_scaler_leaves_two_negative_controls_of_a_batch():
    X, y, plate = plates(n_plates=3, n=6, d=4, shift=8.0)
    # P0 has two negative controls, P1 three.
    gone = [0, 1, 2, 3, 12, 13, 14]
    X, y, plate = (np.delete(a, gone, axis=0) for a in (X, y, plate))
    fitted = scorer(
        scaler=ControlScaler(control="mock"), pooled=True, poor_controls="ignore"
    ).fit(X, y, batch=plate)
    unknown = np.isnan(fitted.control_scores_[:, 0])
    np.testing.assert_array_equal(unknown, (plate == "P0") & (y == "mock"))
    assert fitted.separation_["separate"].to_list() == [False, True, True]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_scores_do_not_depend_on_what_transform_gives_out(library):
    pytest.importorskip(library)
    X, y, plate = plates(d=6, shift=8.0)
    fitted = scorer(scaler=ControlScaler(control="mock")).fit(X, y, batch=plate)
    expected = fitted.score(X, y, batch=plate)
    with sklearn.config_context(transform_output=library):
        again = sklearn.clone(fitted).fit(X, y, batch=plate)
        assert again.score(X, y, batch=plate) == expected
        assert type(again.transform(X, batch=plate)).__module__.startswith(library)


def test_a_scaler_that_takes_no_batches_is_refused():
    X, y = screen()
    with pytest.raises(ValueError, match=r"StandardScaler\(\) does not take a batch"):
        scorer(scaler=StandardScaler()).fit(X, y)


def test_rows_that_their_index_has_in_another_order_are_refused():
    X, y = screen()
    X = pd.DataFrame(X, index=[f"well {k}" for k in range(len(X))]).add_prefix("f")
    batch = pd.Series(np.arange(len(X)) % 2, X.index)
    fitted = scorer(poor_controls="ignore").fit(X, y, batch=batch)
    with pytest.raises(ValueError, match=r"batch.loc\[X.index\]"):
        fitted.transform(X, batch=batch[::-1])
    with pytest.raises(ValueError, match="y has the rows of X in another order"):
        fitted.fit(X, pd.Series(y, X.index)[::-1], batch=batch)
    ours = fitted.transform(X, batch=batch[::-1].loc[X.index])
    np.testing.assert_array_equal(ours, fitted.transform(X, batch=batch.to_numpy()))


@pytest.mark.filterwarnings("default")
def test_warnings_name_the_line_of_the_caller():
    X, y = screen(distance=0.0)
    model = make_pipeline(StandardScaler(), DoseResponseScorer(perturbation=scorer()))
    with pytest.warns(UserWarning, match="do not separate") as caught:
        model.fit(X, y)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("form", [np.array, pd.Series, list, tuple, set])
def test_a_scaler_may_name_its_controls_in_any_form(form):
    X, y, batch = small_plates()
    scores = [
        PerturbationScorer(
            negative="mock",
            positive="infected",
            scaler=ControlScaler(control=control),
            pooled=True,
            poor_controls="ignore",
        )
        .fit(X, y, batch=batch)
        .control_scores_
        for control in ("infected", form(["infected"]))
    ]
    np.testing.assert_array_equal(*scores)


def test_a_scaler_whose_controls_are_others_is_refused():
    X, y, batch = small_plates()
    y[:2] = "DMSO"
    scorer = PerturbationScorer(
        negative="mock", positive="infected", scaler=ControlScaler(control="DMSO")
    )
    with pytest.raises(ValueError, match="rows of y that are 'DMSO', and is given"):
        scorer.fit(X, y, batch=batch)


def small_plates():
    """Two plates of eight negative controls and two positive ones."""
    rng = np.random.default_rng(0)
    y = np.tile(np.repeat(["mock", "infected"], [8, 2]), 2).astype(object)
    X = rng.normal(size=(20, 3)) + 5 * (y == "infected")[:, None]
    return X, y, np.repeat(["P1", "P2"], 10)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    "scaler",
    [
        ControlScaler(control="mock"),
        ControlScaler(control="mock", prior_df=6),
        TypicalVariationNormalizer(control="mock"),
    ],
)
def test_controls_left_out_are_scaled_as_other_rows_are(scaler, pooled):
    rng = np.random.default_rng(0)
    y = np.tile(np.repeat(["mock", "infected", "compound"], [5, 12, 40]), 6)
    batch = np.repeat(np.arange(6), 57)
    X = rng.normal(size=(len(y), 8))
    X[y != "mock", :4] += 3
    scorer = PerturbationScorer(
        negative="mock", positive="infected", scaler=scaler, pooled=pooled
    )
    scorer.fit(X, y, batch=batch)
    inert = scorer.transform(X, batch=batch)[y == "compound"]
    held_out = scorer.control_scores_[scorer.control_kinds_ == 1]
    np.testing.assert_allclose(held_out.mean(axis=0), inert.mean(axis=0), rtol=0.15)

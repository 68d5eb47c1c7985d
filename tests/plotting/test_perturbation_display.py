"""Controls as ellipses that hold them, hits by name."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gandl.plotting import PerturbationDisplay
from gandl.scoring import DoseResponseScorer, PerturbationScorer


@pytest.fixture
def screen():
    rng = np.random.default_rng(0)
    y = np.repeat(["infected", "mock"], 40)
    controls = rng.normal(size=(80, 3))
    controls[:40, 0] += 10
    treated = rng.normal(size=(9, 3))
    treated[3:, 0] += 10
    treated[6:, 2] += 30
    names = np.repeat(["rescues", "inert", "kills"], 3)
    return controls, y, treated, names


def ellipses(display):
    return {patch.get_label().split(",")[0]: patch for patch in display.ax_.patches}


def test_hits_are_named_once_and_nothing_else(screen):
    controls, y, treated, names = screen
    scorer = DoseResponseScorer(
        perturbation=PerturbationScorer(negative="mock", positive="infected")
    ).fit(controls, y)
    display = PerturbationDisplay.from_estimator(scorer, treated, names)
    assert [text.get_text() for text in display.ax_.texts] == ["rescues"]
    named_at = display.ax_.texts[0].xy
    np.testing.assert_allclose(
        named_at[0], scorer.perturbation_.transform(treated)[:3, 0].min()
    )
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[:3] == ["inactive", "toxic", "hit"]


def test_names_in_another_order_are_refused(screen):
    controls, y, treated, names = screen
    scorer = PerturbationScorer(negative="mock", positive="infected").fit(controls, y)
    names, table = pd.Series(names)[::-1], pd.DataFrame(treated)
    with pytest.raises(ValueError, match="names has the rows of X in another order"):
        PerturbationDisplay.from_estimator(scorer, table, names)
    scores = pd.DataFrame(scorer.transform(treated))
    ends = {"mock": np.zeros((2, 2)), "infected": np.ones((2, 2))}
    with pytest.raises(ValueError, match="names has the rows of scores in another"):
        PerturbationDisplay.from_predictions(scores, ends, names=names)


def test_ellipses_are_those_of_controls_held_out(screen):
    controls, y, treated, _ = screen
    scorer = PerturbationScorer(negative="mock", positive="infected").fit(controls, y)
    display = PerturbationDisplay.from_estimator(scorer, treated)
    found = ellipses(display)
    assert list(found) == ["mock", "infected"]
    for kind, patch in enumerate(found.values()):
        scores = scorer.control_scores_[scorer.control_kinds_ == kind]
        np.testing.assert_allclose(patch.center, scores.mean(axis=0))


def test_an_ellipse_holds_95_percent():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(4000, 2)) @ [[0.3, 0.2], [0.0, 0.1]]
    controls = {"mock": spread, "infected": spread + 5}
    display = PerturbationDisplay.from_predictions(np.zeros((0, 2)), controls)
    for patch, name in zip(display.ax_.patches, controls, strict=True):
        inside = patch.get_patch_transform().inverted().transform(controls[name])
        share = (np.hypot(*inside.T) <= 1).mean()
        assert share == pytest.approx(0.95, abs=0.01)


def test_as_many_names_as_asked_for(screen):
    controls = {"mock": np.zeros((2, 2)), "infected": np.ones((2, 2))}
    scores = np.c_[np.linspace(0.5, 0.1, 5), np.zeros(5)]
    display = PerturbationDisplay(
        scores=scores, controls=controls, names=[*"abcd", None], calls=["hit"] * 5
    ).plot(n_names=2)
    assert [text.get_text() for text in display.ax_.texts] == ["d", "c"]
    assert not display.ax_.patches  # two controls have no ellipse


def test_errors():
    controls = {"mock": np.zeros((2, 2)), "infected": np.ones((2, 2))}
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        PerturbationDisplay.from_predictions([[0, 0]], controls, names=["a", "b"])
    with pytest.raises(ValueError, match=r"got \['active'\]"):
        PerturbationDisplay.from_predictions([[0, 0]], controls, calls=["active"])


@pytest.mark.parametrize("backend", ["agg", "svg", "pdf"])
def test_names_on_any_backend_and_in_a_subfigure(backend, tmp_path):
    """Subfigures do not draw by themselves, and not every canvas has a renderer."""
    scores, controls = [[0.1, 0.3], [0.1, 0.3]], {"mock": [[0, 0]], "sick": [[1, 1]]}
    before = plt.get_backend()
    plt.switch_backend(backend)
    try:
        ax = plt.figure().subfigures(1, 2)[0].subplots()
        display = PerturbationDisplay.from_predictions(
            scores, controls, names=["one", "other"], calls=["hit"] * 2, ax=ax
        )
        plt.gcf().savefig(tmp_path / "figure")
    finally:
        plt.close("all")
        plt.switch_backend(before)
    assert {t.get_text() for t in display.ax_.texts} == {"one", "other", ""}


def test_names_of_hits_do_not_overlap():
    scores = np.random.default_rng(0).normal([0.2, 0.3], 0.01, size=(6, 2))
    names = [f"compound {k}" for k in range(6)]
    controls = {"mock": np.zeros((2, 2)), "infected": np.ones((2, 2))}
    display = PerturbationDisplay.from_predictions(
        scores, controls, names=names, calls=["hit"] * 6
    )
    display.figure_.canvas.draw()
    boxes = [t.get_window_extent() for t in display.ax_.texts if t.get_text()]
    assert len(boxes) == 6
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])


def test_two_controls_of_a_kind_are_named(screen):
    controls, y, treated, _ = screen
    few = np.r_[0:2, 40:80]
    scorer = PerturbationScorer(negative="mock", positive="infected")
    scorer.fit(controls[few], y[few])
    display = PerturbationDisplay.from_estimator(scorer, treated)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert "infected" in labels


def test_controls_with_an_underscore_are_in_the_legend():
    controls = {"_mock": np.eye(3)[:, :2], "_infected": np.zeros((1, 2))}
    display = PerturbationDisplay(
        scores=np.ones((2, 2)), controls=controls, names=None, calls=None
    ).plot()
    labels = {text.get_text() for text in display.ax_.get_legend().get_texts()}
    assert {" _mock, 95 % ellipse", " _infected"} < labels


def test_controls_are_of_two_kinds():
    controls = dict.fromkeys(["mock", "infected", "other"], np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"got \['mock', 'infected', 'other'\]"):
        PerturbationDisplay.from_predictions(np.zeros((1, 2)), controls)


def test_long_names_of_hits_are_shortened():
    scores, controls = np.zeros((2, 2)), {"mock": np.eye(2), "infected": np.eye(2) + 1}
    names = ["remdesivir", "(2R,3R,4S,5R)-2-(6-aminopurin-9-yl)oxolane-3,4-diol"]
    display = PerturbationDisplay.from_predictions(
        scores, controls, names=names, calls=["hit", "hit"]
    )
    written = {text.get_text() for text in display.ax_.texts} - {""}
    assert written == {"remdesivir", "(2R,3R,4S,5…4-diol"}


def test_names_stay_in_the_axes_and_take_no_room_from_them():
    rng = np.random.default_rng(0)
    hits = rng.normal([0.1, 0.35], 0.03, (20, 2))
    controls = {"mock": rng.normal(0, 0.1, (9, 2)), "sick": rng.normal(1, 0.1, (9, 2))}
    heights = []
    for n in (1, 20):
        names = [f"compound number {k}" for k in range(n)]
        display = PerturbationDisplay.from_predictions(
            hits[:n], controls, names=names, calls=["hit"] * n
        )
        display.figure_.canvas.draw()
        for text in display.ax_.texts:
            if text.get_text():
                assert text.get_window_extent().y1 <= display.ax_.bbox.y1 + 1
        heights.append(display.ax_.bbox.height)
    assert sum(bool(text.get_text()) for text in display.ax_.texts) > 5
    assert heights[1] == pytest.approx(heights[0], rel=0.02)

"""The report holds what was found, whatever the names, and works in a browser."""

import re
import shutil
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from gandl import ImageCollection
from gandl.plotting import MontageDisplay, PlateDisplay
from gandl.report import write_report
from gandl.report._by_dose import draw_by_dose
from gandl.report._report import _Page
from gandl.scoring import DoseResponseScorer, PerturbationScorer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DOSES = [0.1, 0.3, 1.0, 3.0]
RESCUES, INERT, TOXIC = "<b>rescue & co</b>", "inert 10", "toxic 9"


def screen():
    """Two plates; three compounds in triplicate."""
    rng = np.random.default_rng(0)
    rows = [
        {"plate": plate, "kind": kind}
        for plate in ("P1", "P2")
        for kind in ["mock"] * 12 + ["infected"] * 12
    ]
    for name in (RESCUES, INERT, TOXIC):
        for dose in DOSES:
            for plate in ("P1", "P2", "P1"):
                rows.append({"plate": plate, "compound": name, "concentration": dose})
    wells = pd.DataFrame(rows)
    wells["batch"] = wells["plate"]
    wells["well"] = [f"{'ABCDEFGH'[k // 12]}{k % 12 + 1}" for k in range(len(wells))]
    X = rng.normal(size=(len(wells), 3))
    effect = 1 / (1 + (0.5 / wells["concentration"]) ** 2)
    X[:, 0] += 12 * (wells["kind"] != "mock")
    X[:, 0] -= 12 * effect.where(wells["compound"] == RESCUES, 0)
    X[:, 1] += 40 * effect.where(wells["compound"] == TOXIC, 0)
    return X, wells


def fitted(X, wells):
    axis = PerturbationScorer(
        negative="mock", positive="infected", poor_controls="ignore"
    )
    return DoseResponseScorer(perturbation=axis).fit(
        X, wells["kind"], batch=wells["batch"]
    )


@pytest.fixture
def written(tmp_path):
    X, wells = screen()
    pixels = np.random.default_rng(0).integers(0, 999, size=(len(X), 2, 32, 32))
    images = ImageCollection.from_array(pixels, channels=["DNA", "actin"])
    path = tmp_path / "report.html"
    table = write_report(
        path,
        fitted(X, wells),
        X,
        wells,
        images=images,
        title="Screen <7>",
        pixel_size=0.65,
        run={"seed": 3, "note": "</pre><script>alert(1)</script>"},
    )
    return path, table


def test_of_large_images_the_middle_is_shown(tmp_path, monkeypatch):
    seen = []
    original = MontageDisplay.from_images
    monkeypatch.setattr(
        MontageDisplay, "from_images", lambda x, **k: seen.append(x) or original(x, **k)
    )
    X, wells = screen()
    pixels = np.zeros((len(X), 1, 40, 301), "uint16")
    pixels[..., 22] = pixels[..., 277] = 9  # the first and the last of 256
    images = ImageCollection.from_array(pixels)
    write_report(tmp_path / "page.html", fitted(X, wells), X, wells, images=images)
    text = (tmp_path / "page.html").read_text()
    assert "Shown are the 256 x 40 pixels in the middle of each." in text
    for shown in seen:
        assert shown.shape[1:] == (1, 40, 256)
        assert (shown[..., [0, -1]] == 9).all()


@pytest.mark.parametrize(
    ("sizes", "bar"), [([0.5], 0.5), (["0.5"], 0.5), ([0.5, 0.6], None), ([None], None)]
)
def test_pixel_size_of_the_images_gives_the_scale_bar(
    sizes, bar, tmp_path, monkeypatch
):
    seen = []
    original = MontageDisplay.from_images
    monkeypatch.setattr(
        MontageDisplay,
        "from_images",
        lambda *a, **k: seen.append(k["pixel_size"]) or original(*a, **k),
    )
    X, wells = screen()
    images = ImageCollection.from_array(
        np.random.default_rng(0).integers(0, 999, size=(len(X), 1, 32, 32)),
        metadata=pd.DataFrame({"pixel_size": np.resize(sizes, len(X))}),
    )
    write_report(tmp_path / "page.html", fitted(X, wells), X, wells, images=images)
    assert seen
    assert set(seen) == {bar}


def test_table_is_that_of_the_scorer(written):
    _, table = written
    X, wells = screen()
    treated = wells["compound"].notna().to_numpy()
    expected = fitted(X, wells).dose_response(
        X[treated],
        wells["compound"][treated],
        wells["concentration"][treated],
        batch=wells["batch"][treated],
    )
    pd.testing.assert_frame_equal(table, expected)
    calls = dict(zip(table["compound"], table["call"], strict=True))
    assert calls == {RESCUES: "hit", INERT: "inactive", TOXIC: "toxic"}


def test_the_page_needs_nothing_beside_it(written):
    path, _ = written
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "url(" not in text
    assert "@import" not in text
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_names_are_text(written):
    text = written[0].read_text(encoding="utf-8")
    assert RESCUES not in text
    assert "&lt;b&gt;rescue &amp; co&lt;/b&gt;" in text
    assert "<title>Screen &lt;7&gt;</title>" in text
    assert "alert(1)</script>" not in text


def test_pictures(written):
    text = written[0].read_text(encoding="utf-8")
    alternatives = re.findall(r'<img src="data:image/png[^"]+" alt="([^"]*)"', text)
    assert [words.split(" of ")[0].split(":")[0] for words in alternatives] == [
        "on- against off-perturbation",
        "on-perturbation",
        "means",
        "dose response",
        "&lt;b&gt;rescue &amp; co&lt;/b&gt;",
    ]


def test_without_images_plates_or_hits(tmp_path):
    X, wells = screen()
    keep = (wells["compound"] != RESCUES).to_numpy()
    bare = wells.drop(columns=["plate", "well"])[keep]
    path = tmp_path / "report.html"
    write_report(path, fitted(X, wells), X[keep], bare)
    text = path.read_text(encoding="utf-8")
    assert "<p>None.</p>" in text
    assert text.count("<img") == 2


def test_wells_without_a_score_are_listed(tmp_path, monkeypatch):
    draw = Mock(side_effect=PlateDisplay.from_predictions)
    monkeypatch.setattr(PlateDisplay, "from_predictions", draw)
    X, wells = screen()
    left = wells.index[wells["compound"] == INERT][:3]
    why = "has a compound, but is <b>'mock'</b>"
    told = wells.assign(left_out=pd.Series(why, left))
    told.loc[left, "compound"] = None
    path = tmp_path / "report.html"
    write_report(path, fitted(X, wells), X, told)
    text = path.read_text(encoding="utf-8")
    assert "Wells left out, listed below: 3." in text
    plates = wells.loc[left].groupby("plate", sort=False)["well"]
    for plate, mine in plates:
        row = f'<td>{plate}</td><td>{len(mine)}</td><td class="prose">'
        assert row + ", ".join(mine) in text
    assert "but is &lt;b&gt;&#x27;mock" in text
    drawn = PlateDisplay.from_predictions.call_args.args
    assert np.isnan(drawn[0][left]).all()
    assert np.isfinite(np.delete(drawn[0], left)).all()
    write_report(path, fitted(X, wells), X, wells, overwrite=True)
    assert "left out" not in path.read_text(encoding="utf-8")


def test_more_stains_than_colours_and_any_word_as_dose_of_controls(tmp_path):
    X, wells = screen()
    pixels = np.zeros((len(X), 8, 16, 16), dtype="uint8")
    images = ImageCollection.from_array(pixels)
    wells["concentration"] = wells["concentration"].astype(object)
    wells.loc[wells["kind"].notna(), "concentration"] = "-"
    named = wells.replace({RESCUES: "ab$_$x^$c$"})
    path = tmp_path / "report.html"
    write_report(path, fitted(X, wells), X, named, images=images)
    assert path.read_text(encoding="utf-8").count("<img") == 5


@pytest.mark.parametrize(("n_hits", "cut"), [(1, 1), (2, 2), (3, None)])
def test_plots_are_of_so_many_compounds(tmp_path, n_hits, cut):
    X, wells = screen()
    path = tmp_path / "report.html"
    write_report(path, fitted(X, wells), X, wells, n_hits=n_hits)
    found = re.findall("The first ([0-9]) of 3, by q", path.read_text(encoding="utf-8"))
    assert found == ([] if cut is None else [str(cut)])


def test_lines_by_dose_are_what_calls_are_made_by():
    X, wells = screen()
    scorer = fitted(X, wells)
    treated = wells["compound"].notna().to_numpy()
    table = scorer.dose_response(
        X[treated],
        wells["compound"][treated],
        wells["concentration"][treated],
        batch=wells["batch"][treated],
    )
    figure = draw_by_dose(table, "µM")
    # Two of three replicates lie on one plate: 3 ** 2 / (2 ** 2 + 1 ** 2).
    below, _ = scorer.hits_.thresholds(3, n_calls=4, n_batches=1.8)
    _, above = scorer.hits_.thresholds(3, n_batches=1.8)
    for ax, (_, row) in zip(figure.axes, table.iterrows(), strict=True):
        blue, orange, on, off = (line.get_ydata() for line in ax.lines)
        assert blue == pytest.approx(below)
        assert orange == pytest.approx(above)
        assert (list(on), list(off)) == (row["on"], row["off"])
        hits = np.array(row["calls"]) == "hit"
        assert ((on < blue) & (off <= orange))[hits].all()
        assert not ((on < blue) & (off <= orange))[~hits].any()
        assert row["call"] in ax.get_title()


def test_an_ec50_outside_the_doses_is_a_limit(tmp_path):
    X, wells = screen()
    late = (wells["compound"] == RESCUES).to_numpy()
    effect = 1 / (1 + (9 / wells["concentration"][late]))
    X[late, 0] = 12 * (1 - effect) + X[late, 1] / 4
    path = tmp_path / "report.html"
    table = write_report(path, fitted(X, wells), X, wells).set_index("compound")
    assert table.loc[RESCUES, "ec50"] > 3
    cells = re.findall(
        r'data-value="([^"]*)">([^<]*)<', path.read_text(encoding="utf-8")
    )
    shown = dict(cells)[repr(float(table.loc[RESCUES, "ec50"]))]
    assert shown == "&gt; 3"


def test_poor_controls_are_told(tmp_path):
    X, wells = screen()
    same = X.copy()
    same[(wells["kind"] == "infected") & (wells["plate"] == "P2"), 0] -= 12
    path = tmp_path / "report.html"
    write_report(path, fitted(same, wells), same, wells)
    text = path.read_text(encoding="utf-8")
    assert "Controls do not separate in 1 of 2 plates" in text
    assert text.count("do not trust</span>") == 1


def test_errors(written, tmp_path):
    path, _ = written
    before = path.read_bytes()
    X, wells = screen()
    scorer = fitted(X, wells)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_report(path, scorer, X, wells)
    assert path.read_bytes() == before
    new = tmp_path / "new.html"
    with pytest.raises(ValueError, match=r"wells lacks \['compound'\]"):
        write_report(new, scorer, X, wells.drop(columns="compound"))
    with pytest.raises(ValueError, match="n_hits is at least 1, got 0"):
        write_report(new, scorer, X, wells, n_hits=0)
    with pytest.raises(ValueError, match="pixel_size is above 0, got -3"):
        write_report(new, scorer, X, wells, pixel_size=-3)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        write_report(new, scorer, X[1:], wells)
    twice = ImageCollection.from_array(np.zeros((2 * len(X), 1, 8, 8), dtype=np.uint8))
    with pytest.raises(
        ValueError, match=r"images, X \d+ rows: give one image for each"
    ):
        write_report(new, scorer, X, wells, images=twice)
    with pytest.raises(ValueError, match="No well is treated"):
        write_report(new, scorer, X, wells.assign(compound=None))
    assert not new.exists()
    write_report(path, scorer, X, wells, overwrite=True)


def test_concentrations_that_differ_by_rounding_are_one():
    X, wells = screen()
    scorer, noise = fitted(X, wells), 1 + 1e-9 * (np.arange(len(X)) % 3)
    pages = [
        _Page(scorer, X, wells.assign(concentration=dose), None, "µM", None)
        for dose in (wells["concentration"], wells["concentration"] * noise)
    ]
    exact, rounded = (page.dose[page.treated] for page in pages)
    np.testing.assert_array_equal(exact, rounded)


@pytest.fixture
def page(written):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        problems = []

        def note_request(request):
            if not request.url.startswith(("file:", "data:")):
                problems.append(request.url)

        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", note_request)
        page.goto(written[0].as_uri())
        yield page
        assert problems == []
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser(page):
    def names():
        cells = page.locator("#compounds tbody tr:visible td:first-child")
        return cells.all_text_contents()

    assert page.locator("#count").text_content() == "3 of 3 compounds"
    heading = page.get_by_role("button", name="compound", exact=True)
    heading.click()
    assert names() == [RESCUES, INERT, TOXIC]
    heading.click()
    assert names() == [TOXIC, INERT, RESCUES]
    # Numbers by value; what is not known comes last in either order.
    toxic_from = page.get_by_role("button", name="toxic from")
    for direction in ("ascending", "descending"):
        toxic_from.click()
        assert names()[0] == TOXIC
        head = page.locator("#compounds th", has=toxic_from)
        assert head.get_attribute("aria-sort") == direction
    page.get_by_label("Call").select_option("inactive")
    assert names() == [INERT]
    assert page.locator("#count").text_content() == "1 of 3 compounds"
    page.get_by_label("Call").select_option("all")
    page.get_by_label("Name").fill("RESCUE")
    assert names() == [RESCUES]
    page.get_by_role("link", name=RESCUES).click()
    assert page.url.endswith("#compound-" + str(page.url.rsplit("-", 1)[1]))
    assert page.locator("article h3").is_visible()
    loaded = "[...document.images].every(image => image.naturalWidth > 100)"
    assert page.evaluate(loaded)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1366, 390])
def test_no_width_makes_the_page_scroll_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_wells_that_are_left_out_are_in_no_mean(tmp_path):
    X, wells = screen()
    treated = wells.index[wells["compound"] == INERT]
    told = wells.assign(left_out=pd.Series("contaminated", treated[:3]))
    path = tmp_path / "report.html"
    table = write_report(path, fitted(X, wells), X, told).set_index("compound")
    assert table.loc[INERT, "n_rows"] == len(treated) - 3


def test_kinds_of_several_types(tmp_path):
    X, wells = screen()
    kinds = wells["kind"].map({"mock": "mock", "infected": 1})
    path = tmp_path / "report.html"
    expected = write_report(path, fitted(X, wells), X, wells)
    axis = clone(fitted(X, wells).perturbation).set_params(positive=1)
    known = kinds.notna().to_numpy()
    scorer = DoseResponseScorer(perturbation=axis)
    scorer.fit(X[known], kinds[known], batch=wells["batch"][known])
    found = write_report(path, scorer, X, wells.assign(kind=kinds), overwrite=True)
    pd.testing.assert_frame_equal(found, expected)


def test_tables_of_any_index_of_their_own(tmp_path):
    X, wells = screen()
    X = pd.DataFrame(X).add_prefix("feature_")
    scorer = fitted(X, wells)
    expected = write_report(tmp_path / "first.html", scorer, X, wells)
    turned = np.arange(len(X))[::-1]
    X, other = X.set_axis(turned), wells.set_axis(turned)
    found = write_report(tmp_path / "second.html", scorer, X, other)
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ValueError, match="wells has the rows of X in another order"):
        write_report(tmp_path / "third.html", scorer, X, wells)

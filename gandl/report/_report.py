"""The report of a screen: one HTML file that needs nothing beside it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from gandl._files import whole_file
from gandl._row_labels import check_order, labels
from gandl.images import ImageCollection
from gandl.plotting import (
    DoseResponseDisplay,
    PerturbationDisplay,
    PlateDisplay,
)
from gandl.plotting._dose_response import within
from gandl.plotting._perturbation import judged_controls
from gandl.plotting._style import ORANGE
from gandl.report._by_dose import draw_by_dose
from gandl.report._html import given, number, picture, prose, wide, works_at
from gandl.report._montages import Montages
from gandl.scoring import DoseResponseScorer
from gandl.scoring._dose_response_scorer import (
    equal_doses,
    fit_curve,
    many_hits,
    of_curve,
)

_LOWEST, _HIGHEST = -1.0, 2.0  # on-perturbation that plates have a colour for
# Heading, column of the table of compounds, and whether it is a number.
_COLUMNS = (
    ("compound", "compound", False),
    ("call", "call", False),
    ("EC50", "ec50", True),
    ("EC50 from", "ec50_low", True),
    ("EC50 to", "ec50_high", True),
    ("works at", "works_at", False),
    ("q", "q_value", True),
    ("on, top dose", "on_last", True),
    ("off, top dose", "off_last", True),
    ("toxic from", "toxic_from", True),
    ("wells", "n_rows", True),
)


def write_report(
    path: str | os.PathLike[str],
    scorer: DoseResponseScorer,
    X: Any,
    wells: pd.DataFrame,
    *,
    images: ImageCollection | None = None,
    title: str = "Screen",
    unit: str = "µM",
    pixel_size: float | None = None,
    run: Mapping[str, Any] | None = None,
    n_hits: int = 50,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Score a screen and write a page that a biologist reads without us.

    Quality of the controls of each plate; a table of compounds that sorts and filters;
    on- against off-perturbation; plates as heat maps; the means of each compound by
    dose; for each hit its curve and images from the negative control over the doses to
    the positive one; what was run.

    Parameters
    ----------
    path : str or path
        The HTML file. It opens without a network.
    scorer : DoseResponseScorer
        Fitted on the controls.
    X : array-like of shape (n, n_features)
        Profiles of treated wells and controls, as in its ``fit``.
    wells : DataFrame of n rows
        What is known of each row: "kind" (as ``y`` in its ``fit``; treated wells
        anything else), "compound" and "concentration" (of treated wells), "batch" (as
        in its ``fit``; None there: leave it out), and, for heat maps, "plate" and
        "well". "left_out", if there, says why a row is neither a control nor treated;
        it is empty for all others.
    images : ImageCollection, default=None
        One image a row of X, to be shown: its first six channels. None: no montages.
    title : str, default="Screen"
        What the page is called.
    unit : str, default="µM"
        Of the concentrations.
    pixel_size : float, default=None
        Micrometres a pixel, for scale bars. None: "pixel_size" of the images' metadata,
        which OME files have, where it is the same for all.
    run : mapping, default=None
        What was run: versions, parameters, seed. Written as JSON.
    n_hits : int, default=50
        How many hits get a curve and images, and how many compounds a plot of their
        doses, those of the lowest q-value first; at least 1.
    overwrite : bool, default=False
        Whether a file that exists may be replaced.

    Returns
    -------
    DataFrame
        The table of compounds, of `DoseResponseScorer.dose_response`.

    Raises
    ------
    ValueError
        If lengths differ, rows of the two tables are in another order by their index, a
        column is missing, no well is treated, ``n_hits`` is below 1, or ``pixel_size``
        not above 0.
    FileExistsError
        If the file exists.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pandas as pd
    >>> from gandl.report import write_report
    >>> from gandl.scoring import DoseResponseScorer, PerturbationScorer
    >>> rng = np.random.default_rng(0)
    >>> kind = np.repeat(["infected", "mock", "treated"], [20, 20, 18])
    >>> wells = pd.DataFrame({"kind": kind, "compound": "remdesivir"})
    >>> wells["concentration"] = np.r_[np.zeros(40), np.repeat([0.1, 1, 10], 6)]
    >>> X = rng.normal(size=(58, 4))
    >>> X[kind != "mock", 0] += 10
    >>> scorer = DoseResponseScorer(
    ...     perturbation=PerturbationScorer(negative="mock", positive="infected")
    ... ).fit(X, wells["kind"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = write_report(f"{folder}/report.html", scorer, X, wells)
    >>> table["call"].tolist()
    ['inactive']
    """
    final = Path(path)
    if final.exists() and not overwrite:
        raise FileExistsError(
            f"{str(final)!r} exists: name another file, or pass overwrite=True."
        )
    check_is_fitted(scorer)
    if n_hits < 1:
        raise ValueError(f"n_hits is at least 1, got {n_hits}.")
    if pixel_size is not None and not pixel_size > 0:
        raise ValueError(f"pixel_size is above 0, got {pixel_size:g}.")
    check_order(X, wells=wells)
    if isinstance(X, pd.DataFrame):  # whose names the scorer may have seen
        X = X.reset_index(drop=True)
    else:
        X = np.asarray(X, dtype=np.float64)
    check_consistent_length(X, wells)
    if images is not None and len(images) != len(wells):
        raise ValueError(
            f"images has {len(images)} images, X {len(wells)} rows: give one image for "
            "each row, in the same order. Of several sites a well, the first ones are "
            'images[~images.metadata.duplicated(["plate", "well"])].'
        )
    missing = {"kind", "compound", "concentration"} - set(wells)
    if missing:
        raise ValueError(f"wells lacks {sorted(missing)}; it has {list(wells)}.")
    page = _Page(scorer, X, wells.reset_index(drop=True), images, unit, pixel_size)
    template = Template(
        (files("gandl.report") / "template.html").read_text(encoding="utf-8")
    )
    text = template.substitute(
        title=escape(title),
        summary=escape(page.summary()),
        negative=escape(str(scorer.perturbation_.negative_)),
        positive=escape(str(scorer.perturbation_.positive_)),
        unit=escape(unit),
        level=f"{100 * (1 - page.alpha):g} %",
        alpha=f"{scorer.alpha:g}",
        typical=page.typical_off(),
        quality=page.quality(),
        left_out=page.without_score() + page.skipped(),
        compounds=page.compounds(n_hits),
        scatter=page.scatter(),
        plates=page.plates(),
        by_dose=page.by_dose(n_hits),
        hits=page.hits(n_hits),
        run=escape(
            json.dumps(given(run or {}), indent=2, ensure_ascii=False, default=str)
        ),
    )
    with whole_file(final) as part:
        part.write_text(text, encoding="utf-8")
    return page.table


class _Page:
    """What the parts of the page are made of."""

    def __init__(
        self,
        scorer: DoseResponseScorer,
        X: np.ndarray | pd.DataFrame,
        wells: pd.DataFrame,
        images: ImageCollection | None,
        unit: str,
        pixel_size: float | None,
    ) -> None:
        self.scorer, self.wells, self.images, self.unit = scorer, wells, images, unit
        self.alpha = fit_curve(scorer.curve, np.zeros(1), np.zeros(1)).alpha
        axis = scorer.perturbation_
        batch = wells.get("batch")
        kind = labels(wells["kind"])
        self.of_control = {
            str(name): np.flatnonzero(kind == name)
            for name in (axis.negative_, axis.positive_)
        }
        is_control = (kind == axis.negative_) | (kind == axis.positive_)
        reasons = wells.get("left_out", pd.Series("", index=wells.index))
        is_left_out = (reasons.notna() & (reasons != "")).to_numpy()
        self.wells_left_out = wells.assign(why=reasons.astype(object))[is_left_out]
        treated = ~is_control & ~is_left_out & wells["compound"].notna().to_numpy()
        if not treated.any():
            raise ValueError(
                "No well is treated: each is a control or has no compound."
            )
        self.treated = np.flatnonzero(treated)
        self.scores = axis._score_rows(X, batch)
        self.compound = labels(wells["compound"])
        given = wells["concentration"].where(treated)  # controls may have any word
        self.dose = pd.to_numeric(given).to_numpy(dtype=np.float64, copy=True)
        self.dose[treated] = equal_doses(self.dose[treated])
        self.table = scorer.dose_response(
            X[treated],
            self.compound[treated],
            self.dose[treated],
            batch=None if batch is None else batch[treated],
        )
        self.montages = None
        if images is not None:
            self.montages = Montages(
                images,
                self.of_control,
                self.scores[:, 0],
                self.dose,
                batch,
                unit=unit,
                pixel_size=pixel_size,
            )

    def summary(self) -> str:
        calls = self.table["call"].value_counts()
        parts = [
            f"{calls.get(call, 0)} {call}" for call in ("hit", "toxic", "inactive")
        ]
        found = self.scorer.perturbation_.separation_
        unknown = found["cohens_d"].isna()
        poor = ~found["separate"] & ~unknown
        n_compounds, n_wells = len(self.table), len(self.treated)
        words = f"{n_compounds} compound{'s' * (n_compounds != 1)} in "
        words += f"{n_wells} well{'s' * (n_wells != 1)}: "
        words += f"{', '.join(parts)}."
        if n := self.table["p_value"].isna().sum():
            words += f" Too few doses for a curve, and called by their means: {n}."
        if poor.any():
            words += f" Controls do not separate in {poor.sum()} of {len(poor)} plates:"
            words += " do not trust scores there."
        if unknown.any():
            words += " Too few controls to say whether they separate in"
            words += f" {unknown.sum()} of {len(unknown)} plates."
        if told := many_hits(self.table["call"]):
            words += f" {told}"
        if n := len(self.wells_left_out):
            words += f" Wells left out, listed below: {n}."
        if n := 0 if self.images is None else len(self.images.skipped):
            words += f" Images left out, listed below: {n}."
        return words

    def quality(self) -> str:
        found = self.scorer.perturbation_.separation_
        names = {
            "n_negative": "negative controls",
            "n_positive": "positive controls",
            "z_prime": "Z'",
            "ssmd": "SSMD",
            "auc": "AUC",
            "cohens_d": "Cohen's d",
        }
        head = "".join(f"<th>{escape(name)}</th>" for name in names.values())
        rows = []
        for batch, row in found.iterrows():
            word = "yes"
            if not row["separate"]:
                told = "do not trust" if pd.notna(row["cohens_d"]) else "not known"
                word = f'<span class="poor">{told}</span>'
            cells = "".join(
                f'<td class="number">{number(row[name])}</td>' for name in names
            )
            rows.append(f"<tr><td>{escape(str(batch))}</td>{cells}<td>{word}</td></tr>")
        return (
            f'<table id="controls"><thead><tr><th>plate</th>{head}<th>separate</th>'
            f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )

    def skipped(self) -> str:
        """Images that could not be used, and why."""
        if self.images is None or not len(table := self.images.skipped):
            return ""
        return (
            "<h2>Images left out</h2><p>Could not be used, and are in no "
            f"mean: {len(table)}.</p>{prose(table)}"
        )

    def without_score(self) -> str:
        """Wells that are neither controls nor treated, by plate, and why."""
        if not len(table := self.wells_left_out):
            return ""
        table = table.assign(wells=table.get("well", table.index).astype(str))
        keys = ["plate", "why"] if "plate" in table else ["why"]
        groups = table.groupby(keys, sort=False, dropna=False, observed=True)
        listed = groups["wells"].agg(number="size", wells=", ".join).reset_index()
        listed["why"] = listed.pop("why")  # the last, as a text of any length
        return (
            "<h2>Wells left out</h2><p>Have no score, and are in no table above: "
            f"{len(table)}.</p>{prose(listed)}"
        )

    def typical_off(self) -> str:
        """Off-perturbation of the controls, which is never zero: wells differ."""
        controls = judged_controls(self.scorer.perturbation_)
        return " and ".join(
            f"{number(float(scores[:, 1].mean()))} of {escape(name)} ones"
            for name, scores in controls.items()
        )

    def compounds(self, n_hits: int) -> str:
        table = self.table.assign(
            on_last=[on[-1] for on in self.table["on"]],
            off_last=[off[-1] for off in self.table["off"]],
            works_at=[works_at(row) for _, row in self.table.iterrows()],
        )
        # Of a curve that is none, or rises, a midpoint is not where a compound works.
        ends = ["ec50", "ec50_low", "ec50_high"]
        falls = (table["q_value"] < self.scorer.alpha) & (table["slope"] < 0)
        table[ends] = table[ends].where(falls)
        shown = set(self._hits(n_hits))
        head = "".join(
            f'<th data-type="{"number" if numeric else "text"}">'
            f'<button type="button">{escape(name)}</button></th>'
            for name, _, numeric in _COLUMNS
        )
        rows = []
        for k, row in table.iterrows():
            cells = []
            for _, column, numeric in _COLUMNS:
                value = row[column]
                if numeric:
                    known = "" if math.isnan(value) else repr(float(value))
                    known = known.replace("inf", "Infinity")
                    text = number(value)
                    if column in ends and known:
                        tested = np.array(row["concentrations"])
                        text = escape(within(value, tested[tested > 0]))
                    cells.append(f'<td class="number" data-value="{known}">{text}</td>')
                elif column == "call":
                    cells.append(f'<td class="call {value}">{value}</td>')
                elif column == "works_at":
                    cells.append(f'<td class="doses">{value}</td>')
                else:
                    name = escape(str(value))
                    link = f'<a href="#compound-{k}">{name}</a>' if k in shown else name
                    cells.append(f"<td>{link}</td>")
            rows.append(f'<tr data-call="{row["call"]}">{"".join(cells)}</tr>')
        return (
            f'<table id="compounds"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table>"
        )

    def scatter(self) -> str:
        # A well is drawn as its compound is called at its concentration; what looks
        # like a hit at one dose of a compound that is none, as inactive.
        called = {
            (row["compound"], dose): call
            for _, row in self.table.iterrows()
            for dose, call in zip(row["concentrations"], row["calls"], strict=True)
            if row["call"] == "hit" or call != "hit"
        }
        calls = [
            called.get((self.compound[row], self.dose[row]), "inactive")
            for row in self.treated
        ]
        display = PerturbationDisplay.from_predictions(
            self.scores[self.treated],
            judged_controls(self.scorer.perturbation_),
            names=self.compound[self.treated],
            calls=calls,
        )
        return wide(
            picture(display.figure_, "on- against off-perturbation of all wells")
        )

    def plates(self) -> str:
        if not {"plate", "well"} <= set(self.wells):
            return ""
        is_left_out = self.wells.index.isin(self.wells_left_out.index)
        scores = np.where(is_left_out, np.nan, self.scores[:, 0])
        label = "on-perturbation"
        if ((scores < _LOWEST) | (scores > _HIGHEST)).any():
            label += f" (beyond {_LOWEST:g} and {_HIGHEST:g}: as these)"
        display = PlateDisplay.from_predictions(
            scores,
            self.wells["well"],
            plate=self.wells["plate"],
            # Or one violent well would leave one colour to all others.
            vmin=max(_LOWEST, np.nanmin(scores)),
            vmax=min(_HIGHEST, np.nanmax(scores)),
            label=label,
            cmap="cividis",
        )
        return wide(picture(display.figure_, "on-perturbation of each well, by plate"))

    def by_dose(self, n_hits: int) -> str:
        shown = self.table[:n_hits]
        cut = f"<p>The first {n_hits} of {len(self.table)}, by q.</p>"
        figure = draw_by_dose(shown, self.unit)
        drawn = wide(picture(figure, "means of each compound by dose"))
        return (cut if n_hits < len(self.table) else "") + drawn

    def hits(self, n_hits: int) -> str:
        found = self._hits(n_hits)
        if not found:
            return "<p>None.</p>"
        negative, positive = map(escape, self.of_control)
        told = ""
        if self.montages is not None:
            told = (
                f"<p>Images run from {negative} over the doses, the highest first, to "
                f"{positive}: along a drug's effect as it wears off. Each is of the "
                "well whose on-perturbation is the median, on the compound's first "
                f"plate where that has one.{self.montages.shown}</p>"
            )
        n = int((self.table["call"] == "hit").sum())
        cut = f"<p>The first {len(found)} of {n}.</p>" if len(found) < n else ""
        return cut + told + "".join(self._hit(k) for k in found)

    def _hits(self, n_hits: int) -> list[int]:
        return self.table.index[self.table["call"] == "hit"].tolist()[:n_hits]

    def _hit(self, k: int) -> str:
        row = self.table.iloc[k].to_dict()
        name = str(row["compound"])
        rows = self.treated[self.compound[self.treated] == row["compound"]]
        onset = row["toxic_from"]
        fitted = rows[of_curve(onset, self.dose[rows])]
        curve = fit_curve(self.scorer.curve, *self._curve_data(fitted))
        dose, response = self._curve_data(rows)
        display = DoseResponseDisplay.from_estimator(
            curve, dose[:, None], response, unit=self.unit
        )
        display.ax_.set_ylabel("on-perturbation")
        if not math.isnan(onset):
            end = display.ax_.get_xlim()[1]
            display.ax_.axvspan(onset / 1.3, end, color=ORANGE, alpha=0.15, lw=0)
            display.ax_.set_xlim(right=end)
        notes = [f"q {number(row['q_value'])}"]
        if math.isnan(row["q_value"]):
            notes = ["Too few doses for a curve: called by its means"]
        if row["extrapolated"]:
            notes.append("EC50 lies outside the doses that the curve is fitted to")
        if row["non_monotonic"]:
            notes.append("turns back at high doses")
        if not math.isnan(row["toxic_from"]):
            notes.append(
                f"toxic from {number(onset)} {self.unit}, where the curve is not fitted"
            )
        pictures = ""
        if self.montages is not None:
            pictures = self.montages.of_compound(name, rows)
        return (
            f'<article id="compound-{k}"><h3>{escape(name)}</h3>'
            f"<p>{escape('; '.join(notes))}.</p>"
            f"{picture(display.figure_, f'dose response of {name}')}"
            f"{pictures}</article>"
        )

    def _curve_data(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = self.wells["batch"][rows] if "batch" in self.wells else None
        return self.scorer.curve_data(self.scores[rows, 0], self.dose[rows], batch)

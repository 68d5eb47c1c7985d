"""Pieces of the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from gandl.plotting._style import pyplot


def given(run: Any) -> Any:
    """A record without what was not given."""
    if not isinstance(run, Mapping):
        return run
    return {key: given(value) for key, value in run.items() if value is not None}


def prose(table: pd.DataFrame) -> str:
    """A table whose last two columns are texts of any length."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in table)
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(str(v))}</td>" for v in row[:-2])
        + "".join(f'<td class="prose">{escape(str(v))}</td>' for v in row[-2:])
        + "</tr>"
        for row in table.itertuples(index=False)
    )
    return wide(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")


def number(value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return (
        f"{value:.3g}" if value != int(value) or abs(value) >= 1e6 else f"{value:.0f}"
    )


def works_at(row: Any) -> str:
    """The concentrations at which a hit is one; there may be others between."""
    if row["call"] != "hit":
        return "–"
    pairs = zip(row["concentrations"], row["calls"], strict=True)
    return ", ".join(number(dose) for dose, call in pairs if call == "hit")


def wide(part: str) -> str:
    """What is scrolled sideways where the screen is narrow."""
    return f'<div class="wide">{part}</div>'


def picture(figure: Any, alternative: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    pyplot().close(figure)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<p><img src="data:image/png;base64,{data}" alt="{escape(alternative)}"></p>'
    )

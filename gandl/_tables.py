"""Tables in files, all columns as text, and the usual names of columns."""

from __future__ import annotations

import ast
import gzip
import itertools
import os
import re
import unicodedata
import warnings
import zlib
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

USUAL = ("plate", "well", "site")
DAMAGE = (UnicodeError, EOFError, gzip.BadGzipFile, zlib.error)  # of a text file


def as_pandas(table: Any) -> Any:
    """A table of polars or Arrow as pandas has it; anything else as it is."""
    if hasattr(table, "to_pandas") and hasattr(table, "columns"):
        return table.to_pandas()
    return table


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read csv, tsv or parquet, all columns as text; only an empty field is missing.

    Blanks around a field are no part of it.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no {os.fspath(path)!r}.")
    if os.fspath(path).lower().endswith(".parquet"):
        return with_usual_names(_read_parquet(path))
    table = read_text(path, dtype=str, na_filter=False)
    table = table.apply(lambda column: column.astype(object).str.strip())
    return with_usual_names(table.mask(table == ""))


def read_text(path: str | os.PathLike[str], **how: Any) -> pd.DataFrame:
    """Read csv or tsv; fields and headings are to be as many, and headings unique."""
    how |= {"sep": separator(path), "encoding": "utf-8-sig"}
    try:
        with warnings.catch_warnings():
            # Of fields that no heading is for.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            headings = pd.read_csv(
                path, header=None, nrows=1, **how | {"dtype": str}
            ).iloc[0]
            table = pd.read_csv(path, index_col=False, **how)
    except pd.errors.ParserWarning:
        raise ValueError(
            f"{os.fspath(path)!r} is no table: a row has more fields than there are "
            "headings. Headings are the first line, without a title above them, and a "
            "comma inside a field takes quotation marks around the field."
        ) from None
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        *DAMAGE,
    ) as error:
        raise no_table(path, error) from None
    # pandas would number them.
    twice = headings[headings.duplicated() & (headings.fillna("").str.strip() != "")]
    if len(twice):
        raise ValueError(f"{os.fspath(path)!r} has several columns {twice.iloc[0]!r}.")
    return table


def is_of_disk(error: Exception) -> bool:
    """Whether a file could not be read, which says nothing of what is in it."""
    return isinstance(error, OSError) and error.errno is not None


def no_table(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """What went wrong in reading text, with the file and the remedy."""
    reason = str(error)
    if isinstance(error, UnicodeError):
        reason = 'its text is not UTF-8. Save it as "CSV UTF-8", as spreadsheets say'
    return ValueError(f"{os.fspath(path)!r} is no table: {reason}")


def no_column(name: str, table: pd.DataFrame) -> str:
    """What is said where a column is missing; one of other case is pointed at."""

    def bare(name: str) -> str:
        return name.removeprefix("Metadata_").casefold()

    alike = [c for c in map(str, table) if bare(c) == bare(name)]
    meant = f" Is {alike[0]!r} meant?" if alike else ""
    return f"There is no column {name!r}, but {list(table)}.{meant}"


def query_rows(table: pd.DataFrame, query: str) -> np.ndarray:
    """Numbers of the rows that fulfil a condition, as `DataFrame.query` takes it."""
    hint = (
        'Columns of file names and tables are text: plate == "1", or dose.astype('
        '"float") > 1. A name with blanks stands in backticks: `cell type` == "HeLa".'
    )
    asked, columns = query, list(table)
    if isinstance(query, str):
        table, query = _with_greek_mu(table, query)
        if name := _text_with_number(query, table):
            raise ValueError(
                f"{asked!r} compares the text {name!r} with a number. {hint}"
            )
    try:
        return table.reset_index(drop=True).query(query).index.to_numpy()
    except Exception as error:  # pandas raises many kinds
        raise ValueError(
            f"{asked!r}: {error}. There are the columns {columns}. {hint}"
        ) from None


def _with_greek_mu(table: pd.DataFrame, query: str) -> tuple[pd.DataFrame, str]:
    """Names with the Greek letter, which Python makes of the sign for micro in them."""

    def greek(name: Any) -> Any:
        return name.replace("\u00b5", "\u03bc") if isinstance(name, str) else name

    def greek_name(match: re.Match[str]) -> str:
        return match[0] if match[0][0] in "'\"" else greek(match[0])

    renamed = table.rename(columns=greek)
    if renamed.columns.has_duplicates:  # the two characters tell columns apart
        return table, query
    # Text in quotation marks is no name.
    quoted = r"""`[^`]*`|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\u00b5"""
    return renamed, re.sub(quoted, greek_name, query)


def _text_with_number(query: str, table: pd.DataFrame) -> str | None:
    """A column of text that a query holds against numbers, which it never equals."""
    quoted: list[str] = []

    def unquote(match: re.Match[str]) -> str:
        quoted.append(match[1])
        return f"_quoted_{len(quoted) - 1}_"

    # As pandas reads it.
    python = re.sub("`(.*?)`", unquote, query).replace("@", "")
    python = python.replace("&", " and ").replace("|", " or ").strip()
    try:
        tree = ast.parse(python, mode="eval")
    except SyntaxError:
        return None  # pandas tells
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for pair in itertools.pairwise(sides):
            for side, other in (pair, pair[::-1]):
                if not isinstance(side, ast.Name) or not _has_number(other):
                    continue
                number = re.fullmatch(r"_quoted_(\d+)_", side.id)
                name = quoted[int(number[1])] if number else side.id
                if name in table and _is_text(table[name]):
                    return name
    return None


def _has_number(node: ast.expr) -> bool:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    values = value if isinstance(value, list | tuple | set) else [value]
    return any(isinstance(value, int | float) for value in values)


def _is_text(column: pd.Series) -> bool:
    values = column.dropna()
    return len(values) > 0 and all(isinstance(value, str) for value in values.unique())


def separator(path: str | os.PathLike[str]) -> str:
    """What stands between the fields of a text table.

    A csv file's is a semicolon or a tab where its first line that is not empty has more
    of them than commas: spreadsheets of languages with a decimal comma write it so.
    """
    name = os.fspath(path).lower()
    if name.removesuffix(".gz").endswith((".tsv", ".txt")):
        return "\t"
    opened = gzip.open if name.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
    except DAMAGE:
        return ","  # whoever reads on tells what is wrong
    return max(",;\t", key=first.count)


def _read_parquet(path: str | os.PathLike[str]) -> pd.DataFrame:
    try:
        # A file has no columns of the folders that it lies in.
        how: Any = {"partitioning": None} if os.path.isfile(path) else {}
        table = pd.read_parquet(path, **how)
    except ImportError as error:
        raise ImportError(
            f"Reading {os.fspath(path)!r} needs pyarrow. Install it: "
            'pip install "gandl[profiles]".'
        ) from error
    except (OSError, ValueError) as error:
        if is_of_disk(error):
            raise
        raise no_table(path, error) from None
    return as_text(with_index(table))


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """All columns as text, whole numbers without a fraction."""
    text = table.convert_dtypes().astype("string").astype(object)
    text = text.where(text.notna(), None)
    return text.set_axis([str(name) for name in table], axis=1)


def refuse_twice(table: pd.DataFrame) -> None:
    """Refuse a table in which a name of a column is there twice."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(f"There are several columns {twice[0]!r}.")


def with_index(table: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """Named levels of the index that begin so as columns; others say nothing."""
    # By position: a number is no name there.
    levels = [
        k
        for k, name in enumerate(table.index.names)
        if name is not None and name not in table and str(name).startswith(prefix)
    ]
    return table.reset_index(levels) if levels else table


def composed(table: pd.DataFrame) -> pd.DataFrame:
    """Text in Unicode's composed form: some systems take u and its dots apart."""

    def normal(value: Any) -> Any:
        return unicodedata.normalize("NFC", value) if isinstance(value, str) else value

    def is_apart(value: Any) -> bool:
        return isinstance(value, str) and not unicodedata.is_normalized("NFC", value)

    table = table.rename(columns=normal)
    for name in table.columns[~table.columns.duplicated(keep=False)]:
        # Others stay as they are, and of their type.
        if not is_numeric_dtype(table[name]) and any(map(is_apart, table[name])):
            table[name] = table[name].map(normal)
    refuse_twice(table)
    return table


def usual_name(column: Any) -> str:
    bare = str(column).strip().removeprefix("Metadata_")
    return bare.lower() if bare.lower() in USUAL else bare


def with_usual_names(table: pd.DataFrame) -> pd.DataFrame:
    """Rename "Metadata_Plate" and "Plate" to "plate", well and site alike."""
    renamed = table.rename(columns=usual_name)
    refuse_twice(renamed)
    return renamed

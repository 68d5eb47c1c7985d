"""Which treatments do anything: agreement of replicates, distance from controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control
from sklearn.preprocessing import normalize
from sklearn.utils import check_array, check_random_state

from gandl._row_labels import (
    batch_of_rows,
    batch_positions,
    labels,
    sorted_batches,
)
from gandl.profiles._controls import is_control


def replicate_consistency(
    X: Any,
    y: Any,
    *,
    control: Any,
    batch: Any = None,
    n_null: int = 1000,
    random_state: Any = None,
) -> pd.DataFrame:
    """Mean pairwise cosine of each treatment's replicates, against controls.

    Parameters
    ----------
    X : array-like of shape (n, n_features)
        Profiles of wells, centred and scaled by batch.
    y : array-like of shape (n,)
        The treatment of each row; rows whose treatment is missing are left out.
    control : object or array-like
        Which values of ``y`` mark controls. X is to be normalised by other controls, or
        by all rows alike: those that it was normalised by lie nearer to each other than
        rows that do nothing.
    batch : array-like of shape (n,), default=None
        The batch of each row, usually its plate: draws have as many rows of each batch
        as the treatment. None: rows of all batches are drawn alike.
    n_null : int, default=1000
        Draws of as many rows, without replacement, from the controls and the treatment
        together, that each treatment is compared with. Of controls alone, few of them
        would make draws too much alike.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws.

    Returns
    -------
    DataFrame
        One row a treatment, sorted by name, which is the index: "n_replicates",
        "cosine", "p_value" (of a permutation test: the share of draws that agree as
        much or more, the treatment itself counted as one) and "q_value" (Benjamini and
        Hochberg). NaN with one replicate.

    Raises
    ------
    ValueError
        If there is no control, no treatment, or a treatment has more rows (in a batch)
        than there are controls; if a row is all zeros.

    See Also
    --------
    energy_distance : How far a treatment is from controls.

    Notes
    -----
    The perturbation consistency of [1]_. Rows of one plate agree more than rows of
    many, also when plates were centred, since a plate's centre is known to an error
    that all of its rows share: without ``batch``, treatments whose replicates share
    plates then seem to agree.

    References
    ----------
    .. [1] S. Celik et al., "Building, benchmarking, and exploring perturbative maps of
       transcriptional and morphological data", PLoS Computational Biology 20, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.profiles import replicate_consistency
    >>> rng = np.random.default_rng(0)
    >>> y = np.array(["DMSO"] * 40 + ["taxol"] * 4 + ["inert"] * 4)
    >>> X = rng.normal(size=(48, 5)) + 2 * (y == "taxol")[:, None]
    >>> replicate_consistency(X, y, control="DMSO", random_state=0).round(2)
           n_replicates  cosine  p_value  q_value
    inert             4   -0.01     0.46     0.46
    taxol             4    0.87     0.00     0.00
    """
    X, treatments, chosen, position = _treatments(X, y, control, batch)
    empty = np.flatnonzero(~X.any(axis=1))
    if len(empty):
        raise ValueError(f"Row {empty[0]} is all zeros: it has no direction.")
    unit = normalize(X)
    controls = unit[chosen]

    def agreement(total: np.ndarray, n: int) -> np.ndarray:
        """Mean cosine of pairs among n rows, by the squared length of their sum."""
        return (total - n) / (n * (n - 1)) if n > 1 else np.full_like(total, np.nan)

    def of_draws(draws: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Agreement of draws (n_null, n) of controls and a treatment's rows."""
        n, n_controls = draws.shape[1], len(controls)
        # Sums over the controls that are drawn are the same for all treatments.
        sums = np.stack([controls[d[d < n_controls]].sum(axis=0) for d in draws])
        lengths = (sums**2).sum(axis=1)
        with_own = np.flatnonzero((draws >= n_controls).any(axis=1))
        drawn = (draws[with_own, :, None] - n_controls == np.arange(n)).any(axis=1)

        def null(rows: np.ndarray) -> np.ndarray:
            total = lengths.copy()
            own = drawn @ unit[rows]
            total[with_own] = ((sums[with_own] + own) ** 2).sum(axis=1)
            return agreement(total, n)

        return null

    def value(rows: np.ndarray) -> np.ndarray:
        return agreement((unit[rows].sum(axis=0) ** 2).sum(), len(rows))

    how = (treatments, position, chosen, n_null, random_state)
    return _compared(value, of_draws, "cosine", *how, own=True)


def energy_distance(
    X: Any,
    y: Any,
    *,
    control: Any,
    batch: Any = None,
    n_null: int = 1000,
    random_state: Any = None,
) -> pd.DataFrame:
    """Energy distance of each treatment's replicates from the controls.

    ``2 E|x - c| - E|x - x'| - E|c - c'|`` over pairs of different rows, ``x`` of the
    treatment and ``c`` of controls; about zero, also below it, if there is no
    difference.

    Parameters
    ----------
    X : array-like of shape (n, n_features)
        Profiles of wells, centred and scaled by batch.
    y : array-like of shape (n,)
        The treatment of each row; rows whose treatment is missing are left out.
    control : object or array-like
        Which values of ``y`` mark controls. X is to be normalised by other controls, or
        by all rows alike: those that it was normalised by lie nearer to each other than
        rows that do nothing.
    batch : array-like of shape (n,), default=None
        The batch of each row, usually its plate: draws have as many controls of each
        batch as the treatment has rows. None: controls of all batches are drawn alike.
    n_null : int, default=1000
        Draws of as many controls, without replacement, whose distance from the other
        controls each treatment is compared with.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws.

    Returns
    -------
    DataFrame
        One row a treatment, sorted by name, which is the index: "n_replicates",
        "energy_distance", "p_value" (the share of draws as far or farther, the
        treatment itself counted as one) and "q_value" (Benjamini and Hochberg).
        Distances compare between treatments of as many replicates; with one, what
        pairs of its rows would take off is missing.

    Raises
    ------
    ValueError
        If there is no control, no treatment, a treatment has more rows in a batch than
        that has controls, or so many that drawing as many controls leaves fewer than
        two.

    See Also
    --------
    replicate_consistency : Whether a treatment does the same each time.

    Notes
    -----
    Energy distance is of [1]_, as a magnitude of perturbations against a null of
    controls of [2]_. Time and memory are quadratic in the number of controls. Rows of
    one plate lie together, also when plates were centred, since a plate's centre is
    known to an error that all of its rows share: without ``batch``, treatments whose
    replicates share plates then seem to lie apart.

    References
    ----------
    .. [1] G. J. Székely and M. L. Rizzo, "Energy statistics: a class of statistics
       based on distances", J Stat Plan Inference 143, 2013.
    .. [2] S. Celik et al., "Building, benchmarking, and exploring perturbative maps of
       transcriptional and morphological data", PLoS Computational Biology 20, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from gandl.profiles import energy_distance
    >>> rng = np.random.default_rng(0)
    >>> y = np.array(["DMSO"] * 40 + ["taxol"] * 4 + ["inert"] * 4)
    >>> X = rng.normal(size=(48, 5)) + 2 * (y == "taxol")[:, None]
    >>> table = energy_distance(X, y, control="DMSO", random_state=0)
    >>> table["q_value"].lt(0.05).to_dict()
    {'inert': False, 'taxol': True}
    """
    X, treatments, chosen, position = _treatments(X, y, control, batch)
    controls = X[chosen]
    among = cdist(controls, controls)
    n_controls = len(controls)
    largest = max(len(rows) for rows in treatments.values())
    if largest > n_controls - 2:
        raise ValueError(
            f"A treatment has {largest} rows, and there are {n_controls} controls: "
            "drawing as many leaves fewer than two to compare them with."
        )
    row_sums, total = among.sum(axis=1), among.sum()

    def distance(n: int, n_others: int, within: Any, between: Any, others: Any) -> Any:
        """Energy distance of n rows, by sums over pairs."""
        return (
            2 * between / (n * n_others)
            - within / max(1, n * (n - 1))
            - others / (n_others * (n_others - 1))
        )

    def of_draws(draws: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Distance of draws (n_null, n) of controls from the other controls."""
        n = draws.shape[1]
        within = np.array([among[np.ix_(d, d)].sum() for d in draws])
        between = row_sums[draws].sum(axis=1) - within
        others = total - 2 * between - within
        null = distance(n, n_controls - n, within, between, others)
        return lambda _: null

    def value(rows: np.ndarray) -> float:
        within = cdist(X[rows], X[rows]).sum()
        between = cdist(X[rows], controls).sum()
        return distance(len(rows), n_controls, within, between, total)

    how = (treatments, position, chosen, n_null, random_state)
    return _compared(value, of_draws, "energy_distance", *how)


def _treatments(
    X: Any, y: Any, control: Any, batch: Any
) -> tuple[np.ndarray, dict[Any, np.ndarray], np.ndarray, np.ndarray]:
    """Profiles (n, d), the rows of each treatment by name, which rows are controls, and
    the number of each one's batch. A treatment's rows are in the order of batches.
    """
    if control is None:
        raise ValueError("control is to name the values of y that mark controls.")
    X = check_array(X, dtype=np.float64, input_name="X")
    chosen = is_control(control, y, len(X))
    rows = batch_of_rows(batch, len(X))
    position = batch_positions(rows, sorted_batches(rows))
    name_of = labels(y)
    known = np.array([name is not None for name in name_of])
    names = sorted(set(name_of[known & ~chosen]), key=str)
    if not names:
        raise ValueError(f"All rows of y are controls, {control!r}, or missing.")
    order = np.argsort(position, kind="stable")
    treated = pd.Series(name_of[order]).groupby(name_of[order]).indices
    in_order = {name: order[np.asarray(treated[name])] for name in names}
    return X, in_order, chosen, position


def _compared(
    value: Callable[[np.ndarray], Any],
    of_draws: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    name: str,
    treatments: dict[Any, np.ndarray],
    position: np.ndarray,
    chosen: np.ndarray,
    n_null: int,
    random_state: Any,
    *,
    own: bool = False,
) -> pd.DataFrame:
    """Compare the value of each treatment's rows with those of draws.

    ``of_draws`` takes draws (n_null, n) out of the controls, and with ``own`` of n
    rows of a treatment after them; it returns what gives the draws' values (n_null,)
    for the rows of a treatment. Draws are as those rows are, batch by batch.
    """
    if n_null < 1:
        raise ValueError(f"n_null is at least 1, got {n_null}.")
    rng = check_random_state(random_state)
    batch_of = {name: tuple(position[rows]) for name, rows in treatments.items()}
    in_batch = position[chosen]
    controls = {k: np.flatnonzero(in_batch == k) for k in np.unique(position)}
    where = " of its batch" if len(controls) > 1 else ""
    for treatment, batches in batch_of.items():
        for k in set(batches):
            if batches.count(k) > len(controls[k]):
                raise ValueError(
                    f"Treatment {treatment!r} has {batches.count(k)} rows, more than "
                    f"the {len(controls[k])} controls{where} to compare it with."
                )

    def draws(batches: tuple[int, ...]) -> np.ndarray:
        """Draws (n_null, n) for a treatment whose rows are of these batches."""
        rows = len(in_batch) + np.arange(len(batches) if own else 0)
        pools = []
        for k, n in zip(*np.unique(batches, return_counts=True), strict=True):
            mine = rows[np.equal(batches, k)] if own else rows
            pools.append((np.append(controls[k], mine), n))
        return np.array(
            [
                np.concatenate([rng.permutation(pool)[:n] for pool, n in pools])
                for _ in range(n_null)
            ]
        )

    nulls = {key: of_draws(draws(key)) for key in sorted(set(batch_of.values()))}
    table = pd.DataFrame(
        {
            "n_replicates": [len(rows) for rows in treatments.values()],
            name: [float(value(rows)) for rows in treatments.values()],
        },
        index=pd.Index(list(treatments), dtype=object),
    )
    # A tie to the last bits is a tie.
    table["p_value"] = [
        np.nan
        if np.isnan(found)
        else (
            1 + (nulls[batch_of[treatment]](rows) >= found - 1e-12 * abs(found)).sum()
        )
        / (1 + n_null)
        for (treatment, rows), found in zip(
            treatments.items(), table[name], strict=True
        )
    ]
    judged = table["p_value"].notna()
    table["q_value"] = np.nan
    if judged.any():
        table.loc[judged, "q_value"] = false_discovery_control(
            table.loc[judged, "p_value"]
        )
    return table

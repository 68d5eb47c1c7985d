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
        If there is no control, or none in a batch of a treatment; if there is no
        treatment; if a row is all zeros.

    See Also
    --------
    energy_distance : How far a treatment is from controls.

    Notes
    -----
    The perturbation consistency of [1]_. Rows of one plate agree more than rows of
    many, also when plates were centred, since a plate's centre is known to an error
    that all of its rows share: without ``batch``, treatments whose replicates share
    plates then seem to agree. The origin is to be where rows that do nothing lie: about
    a centre of all rows, of which many do the same, the others agree as well.

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
        """Agreement of draws of controls and a treatment's rows."""
        n, n_controls = draws.shape[1], len(controls)
        # Sums over the controls that are drawn are the same for all treatments.
        sums = np.stack([controls[d].sum(axis=0) for d in _parts(draws, n_controls)])
        lengths = (sums**2).sum(axis=1)
        with_own = np.flatnonzero((draws >= n_controls).any(axis=1))
        drawn = (draws[with_own, :, None] - n_controls == np.arange(n)).any(axis=1)

        def values(rows: np.ndarray) -> np.ndarray:
            total = lengths.copy()
            own = drawn @ unit[rows]
            total[with_own] = ((sums[with_own] + own) ** 2).sum(axis=1)
            return agreement(total, n)

        return values

    how = (treatments, position, chosen, n_null, random_state)
    return _compared(of_draws, "cosine", *how)


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
        The batch of each row, usually its plate: draws have as many rows of each batch
        as the treatment. None: rows of all batches are drawn alike.
    n_null : int, default=1000
        Draws of as many rows, without replacement, from the controls and the treatment
        together, whose distance from the rest of them each treatment is compared with.
        Of controls alone, few of them would make draws too much alike.
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
        If there are fewer than two controls, or none in a batch of a treatment; if
        there is no treatment.

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
    if n_controls < 2:
        raise ValueError("There is one control: two are needed to lie apart.")
    row_sums, total = among.sum(axis=1), among.sum()

    def of_draws(draws: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Distance of draws of controls and a treatment's rows from all others."""
        n = draws.shape[1]
        is_control = draws < n_controls
        drawn = np.where(is_control, draws, 0)
        has = (draws[:, :, None] - n_controls == np.arange(n)).any(axis=1).astype(float)
        pairs = np.array([among[np.ix_(d, d)].sum() for d in _parts(draws, n_controls)])
        sums = (row_sums[drawn] * is_control).sum(axis=1)

        def values(rows: np.ndarray) -> np.ndarray:
            across, own = cdist(X[rows], controls), cdist(X[rows], X[rows])
            # Sums over pairs: of a draw, of it and all, of all.
            within = pairs + ((has @ own) * has).sum(axis=1)
            for k in range(n):
                mine = np.flatnonzero(has[:, k])
                to_drawn = across[k][drawn[mine]] * is_control[mine]
                within[mine] += 2 * to_drawn.sum(axis=1)
            reach = sums + has @ (across.sum(axis=1) + own.sum(axis=1))
            reach += (across.sum(axis=0)[drawn] * is_control).sum(axis=1)
            every = total + 2 * across.sum() + own.sum()
            between = reach - within
            others = every - 2 * between - within
            return (
                2 * between / (n * n_controls)
                - within / max(1, n * (n - 1))
                - others / (n_controls * (n_controls - 1))
            )

        return values

    how = (treatments, position, chosen, n_null, random_state)
    return _compared(of_draws, "energy_distance", *how)


def _parts(draws: np.ndarray, n_controls: int) -> list[np.ndarray]:
    """The controls of each draw."""
    return [draw[draw < n_controls] for draw in draws]


def _treatments(
    X: Any, y: Any, control: Any, batch: Any
) -> tuple[np.ndarray, dict[Any, np.ndarray], np.ndarray, np.ndarray]:
    """Profiles (n, d), the rows of each treatment by name, which rows are controls, and
    the number of each one's batch. A treatment's rows are in the order of batches, each
    of which has controls.
    """
    if control is None:
        raise ValueError("control is to name the values of y that mark controls.")
    X = check_array(X, dtype=np.float64, input_name="X")
    chosen = is_control(control, y, len(X))
    rows = batch_of_rows(batch, len(X))
    batches = sorted_batches(rows)
    position = batch_positions(rows, batches)
    name_of = labels(y)
    known = np.array([name is not None for name in name_of])
    names = sorted(set(name_of[known & ~chosen]), key=str)
    if not names:
        raise ValueError(f"All rows of y are controls, {control!r}, or missing.")
    order = np.argsort(position, kind="stable")
    treated = pd.Series(name_of[order]).groupby(name_of[order]).indices
    in_order = {name: order[np.asarray(treated[name])] for name in names}
    for name, mine in in_order.items():
        without = np.setdiff1d(position[mine], position[chosen])
        if len(without):
            raise ValueError(
                f"Treatment {name!r} has rows in batch {batches[without[0]]!r}, which "
                "has no control to compare them with."
            )
    return X, in_order, chosen, position


def _compared(
    of_draws: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    name: str,
    treatments: dict[Any, np.ndarray],
    position: np.ndarray,
    chosen: np.ndarray,
    n_null: int,
    random_state: Any,
) -> pd.DataFrame:
    """Compare each treatment with draws of as many rows out of it and the controls.

    A treatment's rows are numbered after the controls; what ``of_draws`` gives for
    draws (m, n) takes the rows of a treatment and has the value of each draw. The first
    draw is the treatment. All have as many rows of each batch as it: where it does
    nothing, each is as likely as it to have the largest value.
    """
    if n_null < 1:
        raise ValueError(f"n_null is at least 1, got {n_null}.")
    rng = check_random_state(random_state)
    in_batch = position[chosen]

    def draws(batches: tuple[int, ...]) -> np.ndarray:
        own = len(in_batch) + np.arange(len(batches))
        pools = [
            (np.append(np.flatnonzero(in_batch == k), own[np.equal(batches, k)]), n)
            for k, n in zip(*np.unique(batches, return_counts=True), strict=True)
        ]
        others = [
            np.concatenate([rng.permutation(pool)[:n] for pool, n in pools])
            for _ in range(n_null)
        ]
        return np.stack([own, *others])

    alike: dict[tuple[int, ...], list[Any]] = {}
    for treatment, rows in treatments.items():
        alike.setdefault(tuple(position[rows]), []).append(treatment)
    found = {}
    for batches in sorted(alike):
        values_of = of_draws(draws(batches))
        for treatment in alike[batches]:
            value, *null = values_of(treatments[treatment])
            # A tie to the last bits is a tie.
            tie = 1e-9 * np.abs([value, *null]).max()
            p_value = (1 + np.sum(null >= value - tie)) / (1 + n_null)
            p_value = np.nan if np.isnan(value) else p_value
            found[treatment] = (len(batches), float(value), p_value)
    table = pd.DataFrame(
        [found[treatment] for treatment in treatments],
        columns=["n_replicates", name, "p_value"],
        index=pd.Index(list(treatments), dtype=object),
    )
    judged = table["p_value"].notna()
    table["q_value"] = np.nan
    if judged.any():
        table.loc[judged, "q_value"] = false_discovery_control(
            table.loc[judged, "p_value"]
        )
    return table

"""Which treatments do anything: agreement of replicates, distance from controls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control
from sklearn.preprocessing import normalize
from sklearn.utils import check_array, check_random_state

from gandl._row_labels import (
    batch_of_rows,
    batch_positions,
    check_order,
    labels,
    sorted_batches,
)
from gandl._warnings import warn
from gandl.profiles._controls import is_control

# Controls of a batch: from so many on, its centre by them matters little, and where a
# treatment has several rows in a batch, which share the centre's error.
_ENOUGH, _ENOUGH_TOGETHER = 10, 100


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
        together, that each treatment is compared with; where there are no more, all of
        them. Of controls alone, few of them would make draws too much alike.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws.

    Returns
    -------
    DataFrame
        One row a treatment, sorted by name, which is the index: "n_replicates",
        "n_draws" (with the treatment itself; no p-value is below one over it),
        "cosine", "p_value" (of a permutation test: the share of draws that agree as
        much or more) and "q_value" (Benjamini and Hochberg). NaN with one replicate.

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
           n_replicates  n_draws  cosine  p_value  q_value
    inert             4     1001   -0.01     0.47     0.47
    taxol             4     1001    0.87     0.00     0.00
    """
    X, treatments, chosen, position = _treatments(X, y, control, batch)
    empty = np.flatnonzero(~X.any(axis=1))
    if len(empty):
        raise ValueError(f"Row {empty[0]} is all zeros: it has no direction.")
    unit = normalize(X)

    def agreement(draws: _Draws, cosines: _Sums) -> np.ndarray:
        """Mean cosine of the pairs of each draw."""
        n = draws.n
        if n == 1:
            return np.full(len(cosines.within), np.nan)
        return (cosines.within - n) / (n * (n - 1))

    how = (treatments, position, chosen, n_null, random_state)
    return _compared(agreement, "cosine", unit, np.inner, *how)


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
        together, whose distance from the rest of them each treatment is compared with;
        where there are no more, all of them. Of controls alone, few of them would make
        draws too much alike.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws.

    Returns
    -------
    DataFrame
        One row a treatment, sorted by name, which is the index: "n_replicates",
        "n_draws" (with the treatment itself; no p-value is below one over it),
        "energy_distance", "p_value" (the share of draws as far or farther) and
        "q_value" (Benjamini and Hochberg).
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
    n_controls = int(chosen.sum())
    if n_controls < 2:
        raise ValueError("There is one control: two are needed to lie apart.")

    def distance(draws: _Draws, distances: _Sums) -> np.ndarray:
        """Energy distance of each draw from all other rows, as many as controls."""
        n, within = draws.n, distances.within
        between = distances.reach - within
        others = distances.every - 2 * between - within
        return (
            2 * between / (n * n_controls)
            - within / max(1, n * (n - 1))
            - others / (n_controls * (n_controls - 1))
        )

    how = (treatments, position, chosen, n_null, random_state)
    return _compared(distance, "energy_distance", X, cdist, *how)


def _treatments(
    X: Any, y: Any, control: Any, batch: Any
) -> tuple[np.ndarray, dict[Any, np.ndarray], np.ndarray, np.ndarray]:
    """Profiles (n, d), the rows of each treatment by name, which rows are controls, and
    the number of each one's batch. A treatment's rows are in the order of batches, each
    of which has controls.
    """
    if control is None:
        raise ValueError("control is to name the values of y that mark controls.")
    check_order(X, y=y, batch=batch)
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
    together = any(len(set(position[mine])) < len(mine) for mine in in_order.values())
    enough = _ENOUGH_TOGETHER if together else _ENOUGH
    _tell_own_controls(X[chosen], position[chosen], enough)
    return X, in_order, chosen, position


def _tell_own_controls(controls: np.ndarray, batches: np.ndarray, enough: int) -> None:
    """Warn of rows that were normalised by the controls they are compared with.

    Not of ``enough`` of them a batch, unless they were whitened.
    """
    _, of, counts = np.unique(batches, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), controls.shape[1]))
    np.add.at(sums, of, controls)
    scale = controls.std(axis=0)
    if not scale.any() or (np.abs(sums / counts[:, None]) > 1e-5 * scale).any():
        return
    some = controls[:, scale > 0][:, :50]
    correlation = np.atleast_2d(np.corrcoef(some, rowvar=False))
    is_white = bool(
        len(correlation) > 1
        and np.allclose(correlation, np.eye(len(correlation)), atol=1e-4)
        and scale[scale > 0].min() > 0.5 * scale.max()  # not principal components
    )
    if is_white or counts.min() < enough:
        warn(
            "X is centred by the very controls that treatments are compared with"
            f"{', and whitened by them' * is_white}: these lie nearer to each other "
            "than rows that do nothing, which seem to do something. Normalise by all "
            'rows, as by ControlScaler(method="robust"), or by other controls.'
        )


class _Sums(NamedTuple):
    """Of what is between two rows, over pairs (i, j), both orders and i = j."""

    within: np.ndarray  # of a draw (m,)
    reach: np.ndarray  # of a draw and all rows (m,)
    every: float  # of all rows


class _Draws:
    """Draws (m, n) out of the controls and, numbered after them, a treatment's rows."""

    def __init__(self, drawn: np.ndarray, among: np.ndarray) -> None:
        self.n = drawn.shape[1]
        self.every_control = among.sum()
        self.is_control = drawn < len(among)
        self.control = np.where(self.is_control, drawn, 0)
        self.own = np.zeros(drawn.shape)  # which rows of the treatment are drawn
        row, column = np.nonzero(~self.is_control)
        self.own[row, drawn[row, column] - len(among)] = 1
        self.of_controls = np.zeros(len(drawn))
        for k in range(self.n):  # the controls of each draw and its k-th row
            pairs = among[self.control[:, k, None], self.control] * self.is_control
            self.of_controls += pairs.sum(axis=1) * self.is_control[:, k]
        self.all_of_controls = self._of_drawn(among.sum(axis=1))

    def _of_drawn(self, values: np.ndarray) -> np.ndarray:
        return (values[self.control] * self.is_control).sum(axis=1)

    def sums(self, across: np.ndarray, own: np.ndarray) -> _Sums:
        """Given what is between a treatment's rows and controls (n, N), and (n, n)."""
        within = self.of_controls + ((self.own @ own) * self.own).sum(axis=1)
        for k in range(self.n):
            mine = np.flatnonzero(self.own[:, k])
            pairs = across[k][self.control[mine]] * self.is_control[mine]
            within[mine] += 2 * pairs.sum(axis=1)
        reach = self.all_of_controls + self._of_drawn(across.sum(axis=0))
        reach += self.own @ (across.sum(axis=1) + own.sum(axis=1))
        every = self.every_control + 2 * across.sum() + own.sum()
        return _Sums(within, reach, every)


def _drawn(
    pools: list[tuple[np.ndarray, int]], n_null: int, rng: Any
) -> tuple[np.ndarray, bool]:
    """Draws of n out of each pool, n_null of them; or all, if those are no more."""
    if math.prod(math.comb(len(pool), n) for pool, n in pools) <= n_null:
        each = (itertools.combinations(pool, n) for pool, n in pools)
        all_of_them = itertools.product(*each)
        return np.array([np.concatenate(draw) for draw in all_of_them]), True
    chosen = []
    for pool, n in pools:
        at_once = max(1, 2**22 // len(pool))
        rows = [min(at_once, n_null - k) for k in range(0, n_null, at_once)]
        order = [rng.random_sample((m, len(pool))).argsort(axis=1)[:, :n] for m in rows]
        chosen.append(pool[np.concatenate(order)])
    return np.concatenate(chosen, axis=1), False


def _compared(
    statistic: Callable[[_Draws, _Sums], np.ndarray],
    name: str,
    X: np.ndarray,
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray],
    treatments: dict[Any, np.ndarray],
    position: np.ndarray,
    chosen: np.ndarray,
    n_null: int,
    random_state: Any,
) -> pd.DataFrame:
    """Compare each treatment with draws of as many rows out of it and the controls.

    All draws have as many rows of each batch as it: where it does nothing, each is as
    likely as it to have the largest value.
    """
    if n_null < 1:
        raise ValueError(f"n_null is at least 1, got {n_null}.")
    rng = check_random_state(random_state)
    controls, in_batch = X[chosen], position[chosen]
    among = kernel(controls, controls)
    alike: dict[tuple[int, ...], list[Any]] = {}
    for treatment, rows in treatments.items():
        alike.setdefault(tuple(position[rows]), []).append(treatment)
    found = {}
    for batches in sorted(alike):
        itself = len(controls) + np.arange(len(batches))
        pools = [
            (np.append(np.flatnonzero(in_batch == k), itself[np.equal(batches, k)]), n)
            for k, n in zip(*np.unique(batches, return_counts=True), strict=True)
        ]
        others, complete = _drawn(pools, n_null, rng)
        draws = _Draws(np.vstack([itself, others]), among)
        n_draws = len(others) + (not complete)  # of all draws, it is one
        for treatment in alike[batches]:
            mine = X[treatments[treatment]]
            sums = draws.sums(kernel(mine, controls), kernel(mine, mine))
            values = statistic(draws, sums)
            # A tie to the last bits is a tie.
            tie = 1e-9 * np.abs(values).max()
            as_large = (values[1:] >= values[0] - tie).sum() + (not complete)
            p_value = np.nan if np.isnan(values[0]) else as_large / n_draws
            found[treatment] = (len(batches), n_draws, values[0], p_value)
    table = pd.DataFrame(
        [found[treatment] for treatment in treatments],
        columns=["n_replicates", "n_draws", name, "p_value"],
        index=pd.Index(list(treatments), dtype=object),
    )
    judged = table["p_value"].dropna()
    table["q_value"] = pd.Series(false_discovery_control(judged), judged.index)
    return table

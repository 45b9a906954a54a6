"""How often the 95 % intervals of the metrics hold the truth, and how far off the metrics without one are.

Success rates are made up, episodes drawn from them, metrics and intervals computed from the episodes, and compared with
the metrics of the rates. Everything that a metric may read is there: the whole matrix, the untrained policy, learning
curves and those of each task learnt alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.metrics import METRICS, Estimate, Metric, ScoreMatrix, compute_all
from vla_cl.metrics.estimate import compute_many
from vla_cl.metrics.measurements import Measurements

FloatArray = NDArray[np.float64]

TASKS, EPISODES = (3, 5, 10), (5, 20, 50)
PROMISED = (0.92, 0.98)
LITTLE_CHANCE = 4.0
"""Below this `Coverage.chance` (a standard deviation of two episodes) a metric takes so few different values that an
interval which holds the truth often enough may do so oftener than in 98 %."""

_POINTS = 6
_REPLICATIONS = 4000
_AT_ONCE = 250
_AHEAD = 0.2
_SEED = 20180110


@dataclass(frozen=True)
class World:
    """Success rates of a run, and of the policy and the references that it is compared with.

    Attributes:
        success: Shape (K, K), also above the diagonal.
        baseline: Of the untrained policy, shape (K,).
        curves: Of each task while it is learnt, shape (K, points).
        alone: Of each task learnt alone, shape (K, points).
        decided: Share of the initial states that decide alone: what happens there is the same in all evaluations that
            have the same rate.
    """

    success: FloatArray
    baseline: FloatArray
    curves: FloatArray
    alone: FloatArray
    decided: float = 0.0


def worlds(tasks: int) -> dict[str, World]:
    """With and without forgetting, by name; K tasks each."""
    row, column = np.indices((tasks, tasks))
    after = row - column  # how many experiences ago the task was learnt
    learnt = np.resize([0.95, 0.6, 0.8], tasks)
    rates = {
        "all .5, nothing forgotten": np.where(after < 0, _AHEAD, 0.5),
        "all .9, nothing forgotten": np.where(after < 0, _AHEAD, 0.9),
        "all 1, nothing forgotten": np.ones((tasks, tasks)),
        "1, then .1": np.where(after == 0, 1.0, 0.1),
        "mixed, little by little": np.where(after < 0, _AHEAD, learnt * 0.8 ** np.maximum(after, 0)),
        "mixed, every second one at once": np.where(
            after < 0, _AHEAD, learnt * np.where((after > 0) & (column % 2 == 1), 0.3, 1.0)
        ),
    }
    found = {name: _world(success) for name, success in rates.items()}
    for decided in (0.2, 1.0):
        for name in ("all .5, nothing forgotten", "mixed, little by little"):
            found[f"{name}, {decided:.0%} of the states decide alone"] = replace(found[name], decided=decided)
    return found


def _world(success: FloatArray) -> World:
    """Rates of the curves: half of the way is learnt at once in the stream, and evenly when alone."""
    end, start = np.diagonal(success), np.full(len(success), 0.1)
    way = np.linspace(0, 1, _POINTS)
    curves = start[:, None] + (end - start)[:, None] * np.where(way > 0, 0.5 + 0.5 * way, 0.0)
    return World(success, start, curves, start[:, None] + (end - start)[:, None] * way)


@dataclass(frozen=True)
class _States:
    """The luck of each task's initial states: shape (K, episodes); NaN where a state does not decide alone."""

    luck: FloatArray
    generator: np.random.Generator

    @classmethod
    def draw(cls, decided: float, tasks: int, episodes: int, generator: np.random.Generator | None) -> _States | None:
        """Of one split; None without a generator: rates are then seen as they are."""
        if generator is None:
            return None
        alone = generator.random((tasks, episodes)) < decided
        return cls(np.where(alone, generator.random((tasks, episodes)), np.nan), generator)

    def success(self, rates: FloatArray) -> FloatArray:
        """Measured rates, of true ones of shape (..., K)."""
        if np.isnan(self.luck).all():
            episodes = self.luck.shape[1]
            return self.generator.binomial(episodes, rates) / episodes
        fresh = self.generator.random((*rates.shape, self.luck.shape[1]))
        drawn = np.where(np.isnan(self.luck), fresh, self.luck)
        return np.asarray((drawn < rates[..., None]).mean(axis=-1))


def measured(
    world: World, episodes: int, generator: np.random.Generator | None = None
) -> tuple[ScoreMatrix, ScoreMatrix]:
    """A run and its reference with so many episodes behind every number; without a generator the rates themselves."""
    size = len(world.success)
    reported, selected = (_States.draw(world.decided, size, episodes, generator) for _ in range(2))

    def seen(rates: FloatArray, states: _States | None = reported) -> FloatArray:
        return rates if states is None else states.success(rates)

    names = tuple(f"task-{number}" for number in range(size))
    steps = np.arange(_POINTS)
    counts = np.full((size, size), episodes)
    curves = _curves(names, steps, seen(world.curves.T, selected).T)
    run = ScoreMatrix(
        names, names, seen(world.success), counts, curves, seen(world.baseline),
        curve_count=episodes, baseline_count=episodes,
    )  # fmt: skip
    diagonal = np.where(np.eye(size, dtype=bool), 0.5, np.nan)
    alone = _curves(names, steps, seen(world.alone.T, selected).T)
    reference = ScoreMatrix(names, names, diagonal, counts, alone, curve_count=episodes)
    return run, reference


def _curves(names: Sequence[str], steps: NDArray[np.int64], rates: FloatArray) -> dict[str, FloatArray]:
    return {name: np.column_stack([steps, curve]) for name, curve in zip(names, rates, strict=True)}


@dataclass(frozen=True)
class Coverage:
    """One metric in one world.

    Attributes:
        held: Share of the intervals that hold the truth; NaN for a metric without interval.
        chance: Variance of the metric, counted in episodes of the cell with the largest weight:
            ``sum_i c_i^2 n_i p_i (1 - p_i) / max_i c_i^2`` with weights c per episode.
        off: Mean of the values minus the truth.
        defined: Share of the replications in which the metric was defined.
        decided: As of `World`.
    """

    held: float
    chance: float
    off: float
    defined: float
    decided: float = 0.0

    @property
    def promised(self) -> bool:
        """Whether the interval keeps its promise, if there is one.

        It may hold the truth oftener with little chance, and where states decide, since what is shared cancels in
        differences.
        """
        if math.isnan(self.held):
            return True
        often = self.held <= PROMISED[1] or self.chance < LITTLE_CHANCE or self.decided > 0
        return self.held >= PROMISED[0] and often


def coverages(world: World, episodes: int, replications: int, generator: np.random.Generator) -> dict[str, Coverage]:
    """How often the interval of each metric holds the truth of a world."""
    exact = measured(world, episodes)
    truth = compute_all(*exact)
    same = _same_sums(Measurements(*exact))
    chosen = [metric for metric in METRICS if same[metric.name] == metric.name]
    results = []
    for start in range(0, replications, _AT_ONCE):
        runs = [measured(world, episodes, generator) for _ in range(min(_AT_ONCE, replications - start))]
        results += compute_many(runs, metrics=chosen)
    found = {
        metric.name: _coverage(metric, exact, truth[metric.name].value, results, world.decided) for metric in chosen
    }
    return {metric.name: found[same[metric.name]] for metric in METRICS}


def _same_sums(exact: Measurements) -> dict[str, str]:
    """Each metric, and the first one whose intervals hold the truth equally often: one of them is enough.

    They do if the weights are the same but for a factor, and the rates are the same.
    """
    first: dict[object, str] = {}
    same = {}
    for metric in METRICS:
        key: object = metric.name
        if metric.terms is not None:
            terms = metric.terms(exact)
            weights = np.round(terms.weights / terms.weights[0], 9)
            key = (*weights.tolist(), *np.round(terms.rates, 9).tolist(), *terms.episodes.tolist())
        same[metric.name] = first.setdefault(key, metric.name)
    return same


def _coverage(
    metric: Metric,
    exact: tuple[ScoreMatrix, ScoreMatrix],
    true: float,
    results: Sequence[Mapping[str, Estimate]],
    decided: float,
) -> Coverage:
    seen = [result[metric.name] for result in results]
    values = np.array([estimate.value for estimate in seen])
    ends = np.array([(estimate.low, estimate.high) for estimate in seen])
    defined = ~np.isnan(values)
    with_interval = defined & ~np.isnan(ends).any(axis=1)
    held = (ends[:, 0] <= true + 1e-9) & (true - 1e-9 <= ends[:, 1])
    return Coverage(
        float(held[with_interval].mean()) if with_interval.any() else math.nan,
        _chance(metric, Measurements(*exact)),
        float(values[defined].mean() - true) if defined.any() else math.nan,
        float(defined.mean()),
        decided,
    )


def _chance(metric: Metric, exact: Measurements) -> float:
    if metric.terms is None:
        return math.nan
    terms = metric.terms(exact)
    of_one = terms.weights / terms.episodes
    return float((of_one**2 * terms.episodes * terms.rates * (1 - terms.rates)).sum() / (of_one**2).max())


def coverage(overrides: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """Coverage of every metric in every world, for 3, 5 and 10 tasks and 5, 20 and 50 episodes."""
    del overrides, folders  # there is nothing to set
    generator = np.random.default_rng(_SEED)
    conditions = {
        f"K={tasks}, {episodes} episodes, {name}": coverages(world, episodes, _REPLICATIONS, generator)
        for tasks in TASKS
        for episodes in EPISODES
        for name, world in worlds(tasks).items()
    }
    broken = [
        f"{metric.name} in {condition}"
        for condition, found in conditions.items()
        for metric in METRICS
        if not found[metric.name].promised
    ]
    return {
        **{metric.name: _summary(metric, conditions) for metric in METRICS},
        "replications": _REPLICATIONS,
        "goal": "the truth held in 92 to 98 %; more only where little is left to chance, or where states decide",
        "missed": ", ".join(broken) or "nowhere",
        "conditions": {
            condition: {name: _plain(figures) for name, figures in found.items()}
            for condition, found in conditions.items()
        },
        "holds": not broken,
    }


def _plain(figures: Coverage) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in vars(figures).items()}


def _summary(metric: Metric, conditions: Mapping[str, Mapping[str, Coverage]]) -> str:
    """``93.1 to 96.9 %; 98.2 to 100.0 % with little chance; value off by -0.001 to 0.002``."""
    found = [figures[metric.name] for figures in conditions.values()]
    off = f"value off by {min(item.off for item in found):+.3f} to {max(item.off for item in found):+.3f}"
    if all(math.isnan(item.held) for item in found):
        return f"no interval; {off}"
    alone = [item for item in found if not item.decided]
    kinds = {
        "": [item for item in alone if item.chance >= LITTLE_CHANCE],
        " with little chance": [item for item in alone if item.chance < LITTLE_CHANCE],
        " where states decide": [item for item in found if item.decided],
    }
    told = [
        f"{100 * min(item.held for item in items):.1f} to {100 * max(item.held for item in items):.1f} %{kind}"
        for kind, items in kinds.items()
        if items
    ]
    return "; ".join([*told, off])

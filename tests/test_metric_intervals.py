"""How often intervals hold the truth, against rates whose metrics are written out here; what has none says why."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from vla_cl.bench import coverage
from vla_cl.cli.main import main
from vla_cl.metrics import HEADLINE_FORGETTING, METRICS, Estimate, ScoreMatrix, compute_all, wilson_interval
from vla_cl.metrics.estimate import compute_many
from vla_cl.metrics.interval import weighted_interval
from vla_cl.metrics.seeds import over_seeds

REPLICATIONS = 150
SLACK = 3 * math.sqrt(0.92 * 0.08 / REPLICATIONS)  # three standard errors of a coverage of 92 %
TOO_HIGH = {"libero_fwt", "libero_auc", "tail_fwt", "chaudhry_forgetting", "mammoth_forgetting"}
TOO_LOW = {"tail_bwt"}
SHARED = {"average_incremental", "clare_auc", "iscil_auc", "cw_forward_transfer"}
BIASED = TOO_HIGH | TOO_LOW
WITHOUT = BIASED | SHARED


def run_of(success, curves, alone, baseline, episodes):
    """A run and its reference; ``episodes`` behind every number."""
    size = len(success)
    names = tuple(f"task-{number}" for number in range(size))

    def named(rows):
        return {name: np.column_stack([np.arange(rows.shape[1]), row]) for name, row in zip(names, rows, strict=True)}

    counts = np.full((size, size), episodes)
    more = {"curve_count": episodes, "baseline_count": episodes}
    return (
        ScoreMatrix(names, names, success, counts, named(curves), baseline, **more),
        ScoreMatrix(names, names, np.where(np.eye(size, dtype=bool), 0.5, np.nan), counts, named(alone), **more),
    )


def drawn(generator, size, episodes, learnt, later):
    """A run whose tasks succeed at ``learnt`` when learnt, ``later`` afterwards, .2 before, and .1 untrained."""
    after = np.subtract.outer(np.arange(size), np.arange(size))
    rates = np.where(after < 0, 0.2, np.where(after == 0, learnt, later))
    curves, alone = np.tile([0.1, 0.5, 0.9], (size, 1)), np.tile([0.0, 0.4, 0.8], (size, 1))
    parts = (rates, curves, alone, np.full(size, 0.1))
    return run_of(*(generator.binomial(episodes, part) / episodes for part in parts), episodes)


def truths(size, learnt, later):
    drop, rest = learnt - later, size - 1
    final = (learnt + rest * later) / size
    up = {"final_average": final, "cw_performance": final}
    up |= dict.fromkeys(("learning_accuracy", "clare_fwt", "iscil_fwt"), learnt)
    down = dict.fromkeys(("libero_nbt", "cw_forgetting"), drop * rest / size)
    down |= {"clare_nbt": drop, "simple_recipe_nbt": drop, "gem_bwt": -drop, "iscil_bwt": -drop * rest / size}
    return up | down | {"gem_fwt": 0.2 - 0.1}


@pytest.mark.parametrize(("learnt", "later"), [(0.5, 0.5), (0.9, 0.9), (0.8, 0.3), (1.0, 0.1)])
@pytest.mark.parametrize(("size", "episodes"), [(3, 5), (5, 50), (10, 20), (10, 5)])
def test_intervals_hold_the_truth_as_often_as_they_say(size, episodes, learnt, later):
    generator = np.random.default_rng(1)
    chosen = [metric for metric in METRICS if metric.name not in WITHOUT]
    results = compute_many(
        [drawn(generator, size, episodes, learnt, later) for _ in range(REPLICATIONS)], metrics=chosen
    )
    expected = truths(size, learnt, later)
    assert {metric.name for metric in chosen} == set(expected)
    for name, truth in expected.items():
        found = [result[name] for result in results]
        held = np.mean([estimate.low - 1e-9 <= truth <= estimate.high + 1e-9 for estimate in found])
        assert held >= 0.92 - SLACK, (name, held)
        spread = np.std([estimate.value for estimate in found])
        width = np.mean([estimate.high - estimate.low for estimate in found])
        assert width <= 1.3 * 2 * 1.96 * spread + 5 / episodes / size, (
            name,
            width,
            spread,
        )


@pytest.mark.parametrize("decided", [0.2, 1.0])
@pytest.mark.parametrize(("size", "episodes"), [(3, 20), (10, 5)])
def test_intervals_hold_the_truth_where_initial_states_decide_alone(size, episodes, decided):
    """Every evaluation is on the same states: what is left with an interval must not need them to be independent."""
    generator, world = np.random.default_rng(11), coverage.worlds(size)["all .5, nothing forgotten"]
    world = dataclasses.replace(world, decided=decided)
    exact = compute_all(*coverage.measured(world, episodes))
    results = compute_many([coverage.measured(world, episodes, generator) for _ in range(REPLICATIONS)])
    for name, truth in exact.items():
        ends = [(result[name].low, result[name].high) for result in results]
        if name in WITHOUT:
            assert np.isnan(ends).all(), name
        else:
            held = np.mean([low - 1e-9 <= truth.value <= high + 1e-9 for low, high in ends])
            assert held >= 0.92 - SLACK, (name, held)


def test_a_stream_that_repeats_tasks_has_no_interval_where_it_adds_up_their_states():
    names = ("a", "b", "a", "b")
    success = np.tile([0.5, 0.7], (4, 1))
    matrix = ScoreMatrix(("a", "b"), ("1", "2", "3", "4"), success, np.full((4, 2), 20), stream=[(n,) for n in names])
    found = compute_all(matrix)
    assert found["learning_accuracy"].why.startswith("shared: ")
    assert found["final_average"].why == ""


def test_what_is_biased_has_no_interval_and_says_which_way():
    generator = np.random.default_rng(2)
    results = compute_many([drawn(generator, 10, 20, 0.5, 0.5) for _ in range(200)])
    for metric in METRICS:
        assert (metric.terms is None) == (metric.name in BIASED), metric.name
        assert metric.name not in TOO_HIGH or metric.bias.startswith("too high: ")
        assert metric.name not in TOO_LOW or metric.bias.startswith("too low: ")
    for name in WITHOUT:
        assert all(math.isnan(result[name].low) and math.isnan(result[name].high) for result in results)
        starts = ("shared: ",) if name in SHARED else ("too high: ", "too low: ")
        assert all(result[name].why.startswith(starts) for result in results)
    forgetting = {
        name: np.array([result[name].value for result in results])
        for name in ("chaudhry_forgetting", "mammoth_forgetting", HEADLINE_FORGETTING)
    }
    error = forgetting[HEADLINE_FORGETTING].std() / math.sqrt(len(results))
    assert abs(forgetting[HEADLINE_FORGETTING].mean()) < 4 * error  # nothing was forgotten
    assert forgetting["chaudhry_forgetting"].mean() > 0.1
    assert forgetting["mammoth_forgetting"].mean() > 0.1


def test_the_bias_stands_where_metrics_are_printed(tmp_path, capsys):
    run, reference = drawn(np.random.default_rng(3), 4, 20, 0.8, 0.3)
    run.write(tmp_path / "matrix.json")
    reference.write(tmp_path / "alone.json")
    assert main(["metrics", str(tmp_path / "matrix.json"), "--reference", str(tmp_path / "alone.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.split()[:1]}
    for name in TOO_HIGH:
        assert " none: too high " in rows[name]
    for name in TOO_LOW:
        assert " none: too low " in rows[name]
    notes = " ".join("\n".join(lines).split())
    assert "chaudhry_forgetting, mammoth_forgetting: too high: a maximum of noisy values" in notes
    assert max(map(len, lines)) <= 100


def test_one_cell_has_wilsons_interval():
    for successes, episodes in ((0, 5), (1, 1), (7, 20), (50, 50)):
        low, high = weighted_interval(np.ones(1), np.array([successes / episodes]), np.array([episodes]))
        assert (low, high) == pytest.approx(wilson_interval(successes, episodes), abs=1e-9)


@pytest.mark.parametrize(("first", "second", "episodes"), [(4, 1, 5), (20, 20, 20), (0, 20, 20), (13, 9, 20)])
def test_a_difference_of_two_rates_is_tested_at_their_most_likely_values(first, second, episodes):
    """Every pair of rates on a grid; of those with one difference the likeliest gives the variance."""
    grid = np.linspace(0, 1, 401)
    likelihood = [binom.logpmf(count, episodes, grid) for count in (first, second)]
    held = []
    for steps in range(-400, 401):  # the second rate, in steps below the first one
        here = np.arange(max(steps, 0), min(401, 401 + steps))
        best = here[np.argmax(likelihood[0][here] + likelihood[1][here - steps])]
        p, q = grid[best], grid[best - steps]
        variance = (p * (1 - p) + q * (1 - q)) / (episodes - 1)
        if abs((first - second) / episodes - steps / 400) <= 1.959964 * math.sqrt(variance) + 1e-12:
            held.append(steps / 400)
    rates = np.array([first, second]) / episodes
    low, high = weighted_interval(np.array([1.0, -1.0]), rates, np.full(2, episodes))
    assert (low, high) == pytest.approx((min(held), max(held)), abs=2 / 400)


def test_an_interval_stays_within_what_rates_allow_and_ignores_cells_without_weight():
    weights = np.array([0.5, 0.5, -1.0, 0.0])
    low, high = weighted_interval(weights, np.array([1.0, 1.0, 0.0, 0.5]), np.array([5, 5, 5, 1]))
    assert (high, low < 1) == (1.0, True)
    assert weighted_interval(weights[:3], np.array([1.0, 1.0, 0.0]), np.full(3, 5)) == pytest.approx(
        (low, high), abs=1e-9
    )
    assert weighted_interval(np.zeros(2), np.full(2, 0.5), np.full(2, 9)) == (0, 0)


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.2])
def test_intervals_over_seeds_hold_the_mean_of_all_seeds(seeds, spread):
    """Seeds whose true rates are even between .6 - spread and .6 + spread; one seed cannot know of the others."""
    generator, count, hits = np.random.default_rng(4), 600, 0
    for _ in range(count):
        rates = generator.uniform(0.6 - spread, 0.6 + spread, seeds)
        successes = generator.binomial(60, rates)
        found = over_seeds([Estimate(k / 60, *wilson_interval(int(k), 60)) for k in successes], 0.0)
        truth = rates[0] if seeds == 1 else 0.6
        hits += found.low <= truth <= found.high
    assert hits / count >= 0.92 - 3 * math.sqrt(0.92 * 0.08 / count)


@pytest.mark.parametrize("decided", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_over_seeds_hold_the_truth_where_all_have_the_same_states(seeds, decided):
    """Six tasks with 20 states each; a share of the states decides alone, for every seed."""
    generator, count, hits = np.random.default_rng(12), 400, 0
    for _ in range(count):
        alone = generator.random((6, 20)) < decided
        luck = np.where(alone, generator.random((6, 20)), generator.random((seeds, 6, 20)))
        successes = (luck < 0.6).sum(axis=(1, 2))
        found = over_seeds([Estimate(k / 120, *wilson_interval(int(k), 120)) for k in successes], 0.0)
        hits += found.low <= 0.6 <= found.high
    assert hits / count >= 0.92 - 3 * math.sqrt(0.92 * 0.08 / count)


def test_over_seeds_a_biased_metric_stays_without_interval_and_says_why():
    biased = Estimate(0.1, math.nan, math.nan, "too high: a maximum")
    found = over_seeds([biased] * 5, -1.0)
    assert found.value == pytest.approx(0.1)
    assert math.isnan(found.low)
    assert found.why == "too high: a maximum"


def test_the_same_matrix_has_the_same_intervals():
    run, reference = drawn(np.random.default_rng(5), 5, 20, 0.8, 0.3)
    assert compute_all(run, reference) == compute_all(run, reference)


def test_the_bench_compares_with_the_rates_that_it_draws_from():
    world = coverage.worlds(3)["1, then .1"]
    found = coverage.coverages(world, 20, 80, np.random.default_rng(6))
    assert set(found) == {metric.name for metric in METRICS}
    assert found["learning_accuracy"].held == 1  # all rates are 1
    assert found["learning_accuracy"].chance == 0
    assert 0.85 < found["simple_recipe_nbt"].held <= 1
    assert found["simple_recipe_nbt"].chance == pytest.approx(2 * 20 * 0.1 * 0.9)
    assert math.isnan(found["chaudhry_forgetting"].held)
    assert abs(found["simple_recipe_nbt"].off) < 0.03
    assert (
        coverage.coverages(coverage.worlds(5)["all .5, nothing forgotten"], 5, 80, np.random.default_rng(6))[
            "chaudhry_forgetting"
        ].off
        > 0.1
    )


def test_the_bench_gives_what_a_file_can_hold(monkeypatch):
    for name, value in {"TASKS": (3,), "EPISODES": (5,), "_REPLICATIONS": 20}.items():
        monkeypatch.setattr(coverage, name, value)
    found = json.loads(json.dumps(coverage.coverage([], []), allow_nan=False))
    assert found["average_incremental"].startswith("no interval; ")
    assert " where states decide; " in found["final_average"]
    assert all(figures["chaudhry_forgetting"]["held"] is None for figures in found["conditions"].values())


@pytest.mark.parametrize(
    ("held", "chance", "promised"),
    [(0.95, 50, True), (0.91, 50, False), (0.91, 0, False), (0.99, 50, False), (0.99, 1, True)],
)
def test_what_the_bench_promises(held, chance, promised):
    assert coverage.Coverage(held, chance, 0.0, 1.0).promised == promised

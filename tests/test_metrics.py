"""Metrics against the numbers printed by LIBERO, against naive loops, and on everything that can be missing."""

import math
from dataclasses import replace

import numpy as np
import pytest

from vla_cl import metrics
from vla_cl.metrics import METRICS, ScoreMatrix, compute_all, wilson_interval
from vla_cl.types import ConfigurationError

# Printed in LIBERO's notebooks/quick_guide_algo.ipynb; FWT_k there in sixtieths.
LIBERO_ROWS = (
    (0.6,),
    (0, 0.8),
    (0, 0, 0.8),
    (0, 0, 0.2, 0.6),
    (0, 0, 0, 0, 0.8),
    (0, 0, 0, 1, 0, 0.8),
    (0, 0, 0, 0, 0.2, 0, 0.4),
    (0.4, 0, 0, 0, 0.8, 0, 0.2, 0.6),
    (0, 0, 0, 0, 0, 0, 0.4, 0, 0.8),
    (0, 0, 0.8, 0.2, 0, 0, 0, 0, 0, 1),
)
LIBERO_TASK_FWT = np.array([30, 38, 40, 20, 34, 46, 20, 40, 44, 50]) / 60
LIBERO_EXPECTED = {
    "libero_fwt": 0.603333,
    "libero_nbt": 0.541270,
    "libero_auc": 0.265775,
    "clare_fwt": 0.72,
    "clare_nbt": 0.601411,
    "clare_auc": 0.298103,
    "gem_bwt": -0.577778,
    "final_average": 0.2,
    "cw_performance": 0.2,
    "learning_accuracy": 0.72,
    "simple_recipe_nbt": 0.577778,
    "iscil_bwt": -0.541270,
}
NEEDS_CURVES = {"libero_fwt", "libero_auc", "tail_fwt", "tail_bwt"}
NEEDS_MORE = {"gem_fwt", "cw_forward_transfer"}


def lower_triangle(rows):
    success = np.full((len(rows), len(rows)), np.nan)
    for index, row in enumerate(rows):
        success[index, : len(row)] = row
    return success


def make(success, episodes=20, **more):
    """A matrix with made-up names; every evaluated cell has the same number of episodes."""
    success = np.asarray(success, dtype=float)
    tasks = tuple(f"suite/task-{index}" for index in range(success.shape[1]))
    experiences = tuple(f"experience-{index}" for index in range(success.shape[0]))
    return ScoreMatrix(tasks, experiences, success, np.where(np.isnan(success), 0, episodes), **more)


def curves_of(values_per_task, stride=100):
    return {
        f"suite/task-{index}": np.column_stack([np.arange(len(values)) * stride, values])
        for index, values in enumerate(values_per_task)
    }


def held_curve(task_fwt):
    """Eleven points whose mean is ``task_fwt`` only if the best one, the sixth, is held to the end."""
    best = task_fwt + 0.1
    before = (11 * task_fwt - 6 * best) / 5
    return [before] * 5 + [best] + [0.0, best, 0.1, 0.2, 0.0]


@pytest.fixture
def libero():
    return make(lower_triangle(LIBERO_ROWS), curves=curves_of(map(held_curve, LIBERO_TASK_FWT)))


def random_matrix(generator, size=6):
    return generator.integers(0, 21, (size, size)) / 20


@pytest.mark.parametrize(("name", "expected"), LIBERO_EXPECTED.items())
def test_the_vector_printed_by_libero(libero, name, expected):
    assert round(compute_all(libero)[name].value, 6) == pytest.approx(expected, abs=1e-12)


def test_the_vector_printed_by_libero_from_plain_arrays():
    padded = np.nan_to_num(lower_triangle(LIBERO_ROWS))  # zeros above the diagonal, as LIBERO stores it
    assert float(metrics.libero_auc(padded, LIBERO_TASK_FWT)) == pytest.approx(0.265775, abs=5e-7)
    assert float(metrics.libero_fwt(LIBERO_TASK_FWT)) == pytest.approx(0.603333, abs=5e-7)
    assert float(metrics.libero_nbt(padded)) == pytest.approx(0.541270, abs=5e-7)


def naive(matrix, curves, baseline, reference):
    """The formulas again, with loops, counted from 0."""
    size = len(matrix)
    fwt, best, mean, alone = [], [], [], []
    for curve, other in zip(curves, reference, strict=True):
        held = list(curve)
        top = held.index(max(held))
        held[top:] = [held[top]] * (len(held) - top)
        fwt.append(sum(held) / len(held))
        best.append(max(curve))
        mean.append(sum(curve) / len(curve))
        alone.append(sum(other) / len(other))
    nbt, auc, clare_auc, chaudhry, mammoth = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(size):
        later = [matrix[tau][k] for tau in range(k + 1, size)]
        if later:
            nbt += sum(matrix[k][k] - value for value in later) / len(later)
            chaudhry += max(matrix[row][k] for row in range(size - 1)) - matrix[-1][k]
            mammoth += max(matrix[row][k] for row in range(size)) - matrix[-1][k]
        auc += (fwt[k] + sum(later)) / (size - k)
        clare_auc += (matrix[k][k] + sum(later)) / (size - k)
    diagonal = [matrix[k][k] for k in range(size)]
    bwt = sum(matrix[-1][k] - diagonal[k] for k in range(size - 1)) / (size - 1)
    tail = sum(sum(matrix[k][i] - best[i] for i in range(k)) / k for k in range(1, size)) / (size - 1)
    seen = sum(sum(matrix[t][: t + 1]) / (t + 1) for t in range(size)) / size
    return {
        "final_average": sum(matrix[-1]) / size,
        "average_incremental": seen,
        "learning_accuracy": sum(diagonal) / size,
        "libero_fwt": sum(fwt) / size,
        "libero_nbt": nbt / size,
        "libero_auc": auc / size,
        "clare_fwt": sum(diagonal) / size,
        "clare_nbt": nbt / (size - 1),
        "clare_auc": clare_auc / size,
        "gem_bwt": bwt,
        "gem_fwt": sum(matrix[k - 1][k] - baseline[k] for k in range(1, size)) / (size - 1),
        "chaudhry_forgetting": chaudhry / (size - 1),
        "mammoth_forgetting": mammoth / (size - 1),
        "cw_performance": sum(matrix[-1]) / size,
        "cw_forgetting": sum(diagonal[k] - matrix[-1][k] for k in range(size)) / size,
        "cw_forward_transfer": sum((a - b) / (1 - b) for a, b in zip(mean, alone, strict=True)) / size,
        "simple_recipe_nbt": -bwt,
        "tail_fwt": sum(best) / size,
        "tail_bwt": tail,
        "iscil_fwt": sum(diagonal) / size,
        "iscil_bwt": -nbt / size,
        "iscil_auc": clare_auc / size,
    }


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_equals_its_naive_loop(seed):
    generator = np.random.default_rng(seed)
    success = random_matrix(generator)
    curves, alone = generator.integers(0, 20, (2, 6, 5)) / 20
    baseline = generator.integers(0, 21, 6) / 20
    run = make(success, curves=curves_of(curves), baseline=baseline)
    reference = make(np.where(np.eye(6, dtype=bool), 0.5, np.nan), curves=curves_of(alone))
    results = compute_all(run, reference)
    expected = naive(success.tolist(), curves.tolist(), baseline.tolist(), alone.tolist())
    assert set(results) == set(expected)
    for name, value in expected.items():
        assert results[name].value == pytest.approx(value, abs=1e-12), name


def test_functions_work_on_stacks_of_matrices():
    generator = np.random.default_rng(0)
    stack = np.stack([random_matrix(generator) for _ in range(3)])
    for name in ("libero_nbt", "clare_auc", "gem_bwt", "chaudhry_forgetting", "mammoth_forgetting", "cw_forgetting"):
        function = getattr(metrics, name)
        assert function(stack) == pytest.approx(np.array([function(matrix) for matrix in stack])), name


def test_the_table_lists_every_function_once():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    helpers = {"compute_all", "describe", "load_matrix", "libero_task_fwt", "mean_interval", "results_to_json"}
    helpers |= {"wilson_interval"}
    functions = {name for name in metrics.__all__ if name.islower() and not name.startswith("format_")} - helpers
    assert set(names) == functions
    for metric in METRICS:
        text = getattr(metrics, metric.name).__doc__
        assert "Formula: ``" in text and "Source: " in text, metric.name


def test_curve_is_held_from_its_first_best_point():
    assert float(metrics.libero_task_fwt([0.0, 0.5, 0.2, 0.5])) == pytest.approx(1.5 / 4)
    assert math.isnan(metrics.libero_task_fwt([]))
    assert math.isnan(metrics.libero_task_fwt([0.1, np.nan, 0.3]))


def test_without_curves_baseline_and_reference_the_rest_is_defined():
    results = compute_all(make(lower_triangle(LIBERO_ROWS)))
    undefined = {name for name, result in results.items() if math.isnan(result.value)}
    assert undefined == NEEDS_CURVES | NEEDS_MORE


def test_a_missing_cell_makes_nan_of_what_needs_it_only():
    success = lower_triangle(LIBERO_ROWS)
    success[4, 2] = np.nan  # neither diagonal nor last row
    results = compute_all(make(success))
    undefined = {name for name, result in results.items() if math.isnan(result.value)} - NEEDS_CURVES - NEEDS_MORE
    assert undefined == {
        "average_incremental",
        "libero_nbt",
        "clare_nbt",
        "clare_auc",
        "chaudhry_forgetting",
        "mammoth_forgetting",
        "iscil_bwt",
        "iscil_auc",
    }
    assert all(math.isnan(results[name].low) and math.isnan(results[name].high) for name in undefined)


def test_joint_training_has_its_final_average_only():
    results = compute_all(make([[0.2, 0.4, 0.9]], curves=curves_of([[0.1, 0.2]] * 3), baseline=[0, 0, 0]))
    defined = {name for name, result in results.items() if not math.isnan(result.value)}
    assert defined == {"final_average", "cw_performance"}
    assert results["final_average"].value == pytest.approx(0.5)


def test_independent_training_has_its_learning_accuracy():
    results = compute_all(make(np.where(np.eye(3, dtype=bool), 0.6, np.nan)))
    defined = {name for name, result in results.items() if not math.isnan(result.value)}
    assert defined == {"learning_accuracy", "clare_fwt", "iscil_fwt"}


def test_one_task_can_neither_be_forgotten_nor_transferred_to():
    results = compute_all(make([[0.8]], curves=curves_of([[0.0, 0.8]]), baseline=[0.1]))
    defined = {name for name, result in results.items() if not math.isnan(result.value)}
    assert not [name for name in defined if "nbt" in name or "bwt" in name or "forgetting" in name or name == "gem_fwt"]
    assert results["libero_auc"].value == pytest.approx(0.4)


def test_mammoth_counts_success_before_learning_and_chaudhry_may_be_negative():
    success = np.array([[0.5, 0.9], [0.6, 0.4]])
    assert float(metrics.mammoth_forgetting(success)) == 0
    assert float(metrics.chaudhry_forgetting(success)) == pytest.approx(-0.1)
    three = np.array([[0.5, 0.9, 0], [0.5, 0.4, 0], [0.5, 0.4, 1]])
    assert float(metrics.mammoth_forgetting(three)) == pytest.approx(0.25)
    assert float(metrics.chaudhry_forgetting(three)) == pytest.approx(0.25)  # RWalk, eq. 3: l from 1 to K - 1


def test_forward_transfer_needs_room_and_curves_of_equal_length():
    run = make([[0.5]], curves=curves_of([[0.0, 1.0]]))
    alone = make([[1.0]], curves=curves_of([[1.0, 1.0]]))
    assert math.isnan(compute_all(run, alone)["cw_forward_transfer"].value)
    longer = make([[0.5]], curves=curves_of([[0.0, 0.5]], stride=200))
    assert math.isnan(compute_all(run, longer)["cw_forward_transfer"].value)
    fits = make([[0.5]], curves=curves_of([[0.0, 0.5]]))
    assert compute_all(run, fits)["cw_forward_transfer"].value == pytest.approx(1 / 3)


def test_a_reference_that_does_not_fit_is_refused():
    run = make([[0.5, 0.1], [0.2, 0.3]])
    with pytest.raises(ConfigurationError, match=r"independent run.*2 x 2"):
        compute_all(run, run)
    other = ScoreMatrix(("suite/other",), ("other",), np.array([[0.5]]), np.array([[20]]))
    with pytest.raises(ConfigurationError, match=r"shares no task.*suite/other"):
        compute_all(run, other)


def test_intervals_hold_the_value_and_are_always_the_same(libero):
    first, second = compute_all(libero), compute_all(libero)
    for name, result in first.items():
        if not math.isnan(result.low):
            assert result.low <= result.value <= result.high, name
            assert (result.low, result.high) == (second[name].low, second[name].high)
    assert first["final_average"].low < 0.2 < first["final_average"].high


def test_what_reads_curves_has_an_interval_only_if_their_episodes_are_known(libero):
    without = compute_all(libero)
    known = make(libero.scores, curves=libero.curves, curve_count=20)
    with_counts = compute_all(known)
    assert str(with_counts) == str(without)  # what reads the curves of a run alone takes their best: it has no interval
    alone = make(np.where(np.eye(10, dtype=bool), 0.5, np.nan), curves=curves_of([[0.0] * 11] * 10), curve_count=10)
    for run, episodes in ((libero, 10), (known, None)):
        found = compute_all(run, replace(alone, curve_count=episodes))["cw_forward_transfer"]
        assert math.isnan(found.low)
        assert found.why.startswith("no counts: ")
        assert found.why.endswith(f"the {'reference' if run is known else 'run'}'s curves")
    found = compute_all(known, alone)["cw_forward_transfer"]
    assert math.isnan(found.low)
    assert found.why.startswith("shared: ")  # all points of a curve are of the same ones


def test_gem_fwt_has_an_interval_only_if_the_episodes_of_the_baseline_are_known():
    success = random_matrix(np.random.default_rng(3), 3)
    assert math.isnan(compute_all(make(success, baseline=[0, 0, 0.5]))["gem_fwt"].low)
    known = compute_all(make(success, baseline=[0, 0, 0.5], baseline_count=20))["gem_fwt"]
    assert known.low < known.value < known.high


def test_cells_at_the_ends_have_an_interval_inside_the_range():
    perfect = compute_all(make(np.ones((4, 4))))
    assert perfect["final_average"].value == perfect["final_average"].high == 1
    assert 0.9 < perfect["final_average"].low < 1
    assert perfect["gem_bwt"].low < 0 < perfect["gem_bwt"].high
    one = compute_all(make([[0.0]]))["final_average"]
    assert one.low == 0 and 0.05 < one.high < 0.2


def test_more_episodes_give_narrower_intervals():
    success = lower_triangle(LIBERO_ROWS)
    few, many = (compute_all(make(success, episodes))["clare_nbt"] for episodes in (10, 100))
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_wilson_interval():
    assert wilson_interval(15, 20) == pytest.approx((0.531299, 0.888138), abs=1e-6)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.161125), abs=1e-6)
    low, high = wilson_interval(20, 20)
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(0, 20))
    assert all(map(math.isnan, wilson_interval(0, 0)))
    with pytest.raises(ValueError, match="21 successes in 20"):
        wilson_interval(21, 20)

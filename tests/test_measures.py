"""Measures other than success: lower is better, means with their own intervals, files and their refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from vla_cl.metrics import METRICS, ScoreMatrix, compute_all, load_matrix
from vla_cl.metrics.interval import means_interval
from vla_cl.scores import Measure
from vla_cl.types import ConfigurationError

LOSS = Measure("loss", "lower", "mean", 0.0, 1.0, "held-out loss")
NAMES = ("a", "b", "c")


def success_run(seed):
    random = np.random.default_rng(seed)
    curves = {name: np.column_stack([np.arange(4) * 5, random.integers(0, 21, 4) / 20]) for name in NAMES}
    scores = random.integers(0, 21, (3, 3)) / 20
    more = {"curve_count": 20, "baseline": random.integers(0, 21, 3) / 20, "baseline_count": 20}
    return ScoreMatrix(NAMES, NAMES, scores, np.full((3, 3), 20), curves, stream=[(name,) for name in NAMES], **more)


def turned(matrix, spread=0.1):
    """The same run, scored by how much is lacking."""
    return replace(
        matrix,
        scores=1 - matrix.scores,
        curves={task: np.column_stack([curve[:, 0], 1 - curve[:, 1]]) for task, curve in matrix.curves.items()},
        baseline=1 - matrix.baseline,
        measure=LOSS,
        spread=np.full((3, 3), spread),
        baseline_spread=np.full(3, spread),
    )


def alone(seed):
    whole = success_run(seed)
    return replace(whole, scores=np.where(np.eye(3, dtype=bool), whole.scores, np.nan), baseline=None)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_lacking_gives_the_same_changes_and_the_levels_that_are_lacking(seed):
    run, reference = success_run(seed), alone(seed + 100)
    plain = compute_all(run, reference)
    other = compute_all(turned(run), replace(turned(replace(reference, baseline=run.baseline)), baseline=None,
                                             baseline_spread=None))  # fmt: skip
    for metric in METRICS:
        ours, theirs = plain[metric.name].value, other[metric.name].value
        expected = 1 - ours if metric.kind == "level" else ours
        assert theirs == pytest.approx(expected, nan_ok=True), metric.name
        assert metric.better(LOSS) == ({"higher": "lower", "lower": "higher"}[metric.direction]
                                       if metric.kind == "level" else metric.direction)  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_the_interval_of_a_difference_of_means_is_welchs(seed):
    random = np.random.default_rng(seed)
    one, other = random.normal(3, 1, 7), random.normal(1, 4, 12)
    samples = (one, other)
    low, high = means_interval(
        np.array([1.0, -1.0]),
        np.array([sample.mean() for sample in samples]),
        np.array([len(sample) for sample in samples]),
        np.array([sample.std(ddof=1) for sample in samples]),
    )
    expected = ttest_ind(one, other, equal_var=False).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_one_mean_is_students():
    sample = np.random.default_rng(0).normal(3, 1, 9)
    found = means_interval(*(np.array([value]) for value in (1.0, sample.mean(), 9, sample.std(ddof=1))))
    expected = ttest_1samp(sample, 0).confidence_interval()
    assert found == pytest.approx((expected.low, expected.high))


def test_an_interval_of_means_stays_within_the_bounds_of_the_measure():
    matrix = turned(success_run(1), spread=2.0)
    for name in ("final_average", "simple_recipe_nbt", "gem_bwt"):
        found = compute_all(matrix)[name]
        low, high = next(metric for metric in METRICS if metric.name == name).bounds(LOSS)
        assert low <= found.low <= found.value <= found.high <= high


def test_without_spreads_or_with_one_number_for_a_task_there_is_no_interval_and_the_reason_is_told():
    matrix = turned(success_run(1))
    assert compute_all(replace(matrix, spread=None))["final_average"].why.startswith("no spread")
    single = replace(matrix, measure=Measure("fid", "lower", "statistic", 0.0))
    found = compute_all(single)["final_average"]
    assert np.isnan(found.low)
    assert found.why.startswith("one number: fid is computed of a task as a whole")


def test_equal_trials_and_single_ones_say_nothing_of_chance():
    matrix = turned(success_run(1), spread=0.0)
    assert compute_all(matrix)["final_average"].why.startswith("no spread: all trials of a cell are equal")
    single = replace(matrix, counts=np.ones((3, 3), dtype=np.int64), spread=np.full((3, 3), np.nan))
    assert compute_all(single)["final_average"].why == "no spread: a cell has one trial"


def test_where_nothing_is_best_there_is_no_share_of_what_there_was_to_gain():
    matrix = replace(turned(success_run(2)), measure=replace(LOSS, low=-np.inf, high=np.inf))
    found = compute_all(matrix, replace(matrix, scores=np.where(np.eye(3, dtype=bool), matrix.scores, np.nan)))
    assert "loss has no best value" in found["cw_forward_transfer"].why


def test_the_reference_must_have_the_same_measure():
    with pytest.raises(ConfigurationError, match="the reference measures success, the run loss"):
        compute_all(turned(success_run(0)), alone(0))


def test_written_and_read(tmp_path):
    matrix = turned(success_run(3))
    matrix.write(tmp_path / "matrix.json")
    back = load_matrix(tmp_path)
    assert back.measure == LOSS
    np.testing.assert_array_equal(back.scores, matrix.scores)
    np.testing.assert_array_equal(back.spread, matrix.spread)
    np.testing.assert_array_equal(back.baseline_spread, matrix.baseline_spread)
    assert "success" not in json.loads((tmp_path / "matrix.json").read_text())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"measure": {"name": "loss"}}, "'measure.direction' must be one of higher, lower"),
        ({"measure": "loss"}, "'measure' must be an object with a name"),
        ({"measure": {**json.loads('{"name":"loss","direction":"lower","kind":"mean"}'), "low": 2, "high": 1}},
         "'measure.low' must be below 'measure.high'"),
        ({"measure": {**json.loads('{"name":"loss","direction":"lower","kind":"mean"}'), "low": "x"}},
         "'measure.low' must be a number or null"),
        ({"scores": [[2.0, 0, 0]] * 3}, "scores must be finite numbers from 0 to 1, or null, but one is 2"),
        ({"spread": [[-1, 0, 0]] * 3}, "'spread' must be standard deviations from 0 on"),
        ({"spread": [[0.1, 0.1]]}, "'spread' must be 3 x 3"),
        ({"trials": [[0, 1, 1]] * 3}, r"but trials\[0\]\[0\] is 0"),
        ({"sprad": []}, "did you mean 'spread'"),
    ],
)  # fmt: skip
def test_a_file_that_says_something_else_is_refused(tmp_path, change, words):
    content = {key: value for key, value in turned(success_run(3)).to_json().items() if key not in ("seal", "run")}
    (tmp_path / "matrix.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ConfigurationError, match=words):
        load_matrix(tmp_path)

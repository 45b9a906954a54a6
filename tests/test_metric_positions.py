"""Metrics by position of the stream: cells above the diagonal, streams that repeat tasks, and all shipped streams."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_cl.config.compose import choices, compose
from vla_cl.evaluation.table import TrialTable
from vla_cl.metrics import HEADLINE, METRICS, ScoreMatrix, compute_all, load_matrix
from vla_cl.rollout.evaluator import trial_of
from vla_cl.rollout.table import EPISODES as LAYOUT
from vla_cl.run.folder import score_matrix
from vla_cl.run.stream_sources import sources
from vla_cl.types import ConfigurationError, Episode, Experience, Outcome, Stream, Task

CONF = Path(__file__).parent / "conf"


def values(matrix, reference=None):
    return {name: found.value for name, found in compute_all(matrix, reference).items()}


def square(success, **more):
    names = tuple("abcdefgh"[: len(success)])
    return ScoreMatrix(names, names, success, np.full(np.shape(success), 10), **more)


ABOVE = [[0.6, 0.9, 0.5], [0.4, 0.7, 0.3], [0.5, 0.6, 0.8]]
"""Every task was evaluated after every experience. By hand:

the best of rows 1 and 2: .6, .9; of all rows .6, .9. End .5, .6."""


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "chaudhry_forgetting": ((0.6 - 0.5) + (0.9 - 0.6)) / 2,  # RWalk, eq. 3: l from 1 to K - 1, .9 before learning
        "mammoth_forgetting": ((0.6 - 0.5) + (0.9 - 0.6)) / 2,
        "average_incremental": (0.6 + (0.4 + 0.7) / 2 + (0.5 + 0.6 + 0.8) / 3) / 3,
        "learning_accuracy": (0.6 + 0.7 + 0.8) / 3,
        "final_average": (0.5 + 0.6 + 0.8) / 3,
        "cw_performance": (0.5 + 0.6 + 0.8) / 3,
        "libero_nbt": ((0.6 - 0.45) + (0.7 - 0.6)) / 3,
        "clare_nbt": ((0.6 - 0.45) + (0.7 - 0.6)) / 2,
        "iscil_bwt": -((0.6 - 0.45) + (0.7 - 0.6)) / 3,
        "clare_auc": ((0.6 + 0.4 + 0.5) / 3 + (0.7 + 0.6) / 2 + 0.8) / 3,
        "iscil_auc": ((0.6 + 0.4 + 0.5) / 3 + (0.7 + 0.6) / 2 + 0.8) / 3,
        "gem_bwt": ((0.5 - 0.6) + (0.6 - 0.7)) / 2,
        "simple_recipe_nbt": ((0.6 - 0.5) + (0.7 - 0.6)) / 2,
        "cw_forgetting": ((0.6 - 0.5) + (0.7 - 0.6) + 0) / 3,
        "gem_fwt": ((0.9 - 0.2) + (0.3 - 0.1)) / 2,
        "tail_fwt": (0.65 + 0.75 + 0.8) / 3,
        "tail_bwt": ((0.4 - 0.65) + ((0.5 - 0.65) + (0.6 - 0.75)) / 2) / 2,
        "libero_auc": ((0.5 + 0.4 + 0.5) / 3 + (0.6 + 0.6) / 2 + 0.7) / 3,
    }.items(),
)
def test_cells_above_the_diagonal_count_where_the_papers_count_them(name, expected):
    # Two points each: the best, held from where it is, gives FWT_k = .5, .6, .7.
    curves = {"a": [[0, 0.35], [9, 0.65]], "b": [[0, 0.45], [9, 0.75]], "c": [[0, 0.6], [9, 0.8]]}
    assert values(square(ABOVE, curves=curves, baseline=[0.5, 0.2, 0.1]))[name] == pytest.approx(expected)


def test_the_best_before_the_last_experience_may_lie_before_learning():
    found = values(square([[0.5, 0.6], [0.5, 0.4]]))
    assert (found["chaudhry_forgetting"], found["mammoth_forgetting"]) == pytest.approx((0, 0))
    three = values(square([[0.5, 0.8, 0], [0.5, 0.4, 0], [0.5, 0.4, 1]]))
    assert three["chaudhry_forgetting"] == pytest.approx(0.2)
    partly = values(square([[0.5, np.nan, 0.1], [0.5, 0.4, np.nan], [0.5, 0.4, 1]]))
    assert partly["chaudhry_forgetting"] == pytest.approx(0)


def test_one_task_has_success_and_nothing_to_forget():
    curve = {"a": [[0, 0.0], [9, 0.8]]}
    found = values(square([[0.8]], curves=curve, baseline=[0.1]))
    defined = {name for name, value in found.items() if not math.isnan(value)}
    assert defined == {
        *("final_average", "average_incremental", "learning_accuracy", "cw_performance"),
        *("clare_fwt", "clare_auc", "iscil_fwt", "iscil_auc", "libero_fwt", "libero_auc", "tail_fwt"),
    }


A_B_A = (("a",), ("b",), ("a",))


def repeated(**more):
    """Tasks a, b, a: by position the columns are a, b, a again."""
    success = [[0.5, 0.1], [0.2, 0.6], [0.9, 0.4]]
    settings = {"stream": A_B_A, "curve_count": 10} | more
    return ScoreMatrix(("a", "b"), ("a", "b", "a-2"), success, np.full((3, 2), 10), **settings)


def test_a_task_that_comes_again_is_another_position():
    found = values(repeated())
    assert found["final_average"] == pytest.approx((0.9 + 0.4) / 2)  # tasks
    assert found["cw_performance"] == pytest.approx((0.9 + 0.4 + 0.9) / 3)  # positions
    assert found["learning_accuracy"] == pytest.approx((0.5 + 0.6 + 0.9) / 3)
    assert found["cw_forgetting"] == pytest.approx(((0.5 - 0.9) + (0.6 - 0.4) + 0) / 3)
    assert found["gem_bwt"] == pytest.approx(((0.9 - 0.5) + (0.4 - 0.6)) / 2)
    assert found["libero_nbt"] == pytest.approx(((0.5 - (0.2 + 0.9) / 2) + (0.6 - 0.4)) / 3)
    assert found["average_incremental"] == pytest.approx((0.5 + (0.2 + 0.6) / 2 + (0.9 + 0.4 + 0.9) / 3) / 3)


def test_the_same_episodes_in_two_positions_are_no_independent_cells():
    """Of a, b, a the last row's mean is 2/3 a + 1/3 b: a wider interval than that of three cells."""
    twice = compute_all(repeated())["cw_performance"]
    thrice = compute_all(square([[0, 0, 0], [0, 0, 0], [0.9, 0.4, 0.9]]))["cw_performance"]
    assert twice.value == pytest.approx(thrice.value)
    assert twice.high - twice.low > 1.1 * (thrice.high - thrice.low)


def test_each_pass_has_its_own_curve_and_a_reference_by_task():
    curves = {"a": [[0, 0.0], [5, 0.5], [10, 0.4], [15, 1.0]], "b": [[5, 0.0], [10, 0.6]]}
    run = repeated(curves=curves, curve_experiences={"a": [0, 0, 2, 2]})
    np.testing.assert_array_equal(run.learning_curve(0), [[0, 0.0], [5, 0.5]])
    np.testing.assert_array_equal(run.learning_curve(2), [[10, 0.4], [15, 1.0]])
    assert values(run)["tail_fwt"] == pytest.approx((0.5 + 0.6 + 1.0) / 3)
    alone = ScoreMatrix(
        ("a", "b"), ("a", "b"), [[0.5, np.nan], [np.nan, 0.5]], [[10, 0], [0, 10]],
        {"a": [[0, 0.0], [5, 0.4]], "b": [[5, 0.0], [10, 0.8]]}, stream=(("a",), ("b",)), curve_count=10,
    )  # fmt: skip
    found = compute_all(run, alone)["cw_forward_transfer"]
    first, second, third = (0.25 - 0.2) / 0.8, (0.3 - 0.4) / 0.6, (0.7 - 0.2) / 0.8
    assert found.value == pytest.approx((first + second + third) / 3)
    assert found.why.startswith("shared: ")


def test_a_joined_curve_of_a_repeated_task_is_not_taken_for_one_pass():
    run = repeated(curves={"a": [[0, 0.0], [15, 1.0]], "b": [[5, 0.0], [10, 0.6]]})
    assert len(run.learning_curve(0)) == 0
    assert math.isnan(values(run)["tail_fwt"])


def test_what_is_not_finished_or_brings_several_tasks_has_no_positions():
    assert repeated(stream=(*A_B_A, ("b",))).positions is None
    both = ScoreMatrix(
        ("a", "b"), ("a", "both"), [[0.5, 0.1], [0.4, 0.4]], [[9, 9], [9, 9]], stream=(("a",), ("a", "b"))
    )
    found = values(both)
    assert math.isnan(found["learning_accuracy"])  # square, but experience 2 does not bring task 2 alone
    assert found["final_average"] == pytest.approx(0.4)
    swapped = ScoreMatrix(("a", "b"), ("b", "a"), [[0.1, 0.5], [0.6, 0.2]], [[9, 9], [9, 9]], stream=(("b",), ("a",)))
    assert values(swapped)["learning_accuracy"] == pytest.approx((0.5 + 0.6) / 2)


def test_a_reference_must_be_evaluated_on_its_own_tasks_only():
    with pytest.raises(ConfigurationError, match=r"independent run.*3 x 2"):
        compute_all(repeated(), repeated())


def test_the_file_keeps_stream_and_passes_and_old_files_are_read(tmp_path):
    curves = {"a": [[0, 0.0], [5, 0.5], [5, 0.4], [15, 1.0]], "b": [[5, 0.0], [10, 0.6]]}
    run = repeated(curves=curves, curve_experiences={"a": [0, 0, 2, 2]})
    run.write(tmp_path / "matrix.json")
    back = load_matrix(tmp_path / "matrix.json")
    assert back.stream == A_B_A
    np.testing.assert_array_equal(back.learning_curve(2), run.learning_curve(2))
    assert values(back) == pytest.approx(values(run), nan_ok=True)
    old = replace(run, stream=None, curve_experiences={}, curves={"b": curves["b"]})
    old.write(tmp_path / "old.json")
    assert set(load_matrix(tmp_path / "old.json").to_json()) == {
        *("tasks", "experiences", "success", "episodes", "curves", "curve_episodes")
    }
    defined = {name for name, value in values(load_matrix(tmp_path / "old.json")).items() if not math.isnan(value)}
    assert defined == {"final_average", "cw_performance"}  # nobody knows which task came when


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stream": (("a",), ("c",), ("a",))}, "'stream' has the unknown task 'c'"),
        ({"stream": (("a",), ("b",))}, "'stream' must list the tasks of at least 3 experiences.*lists 2"),
        ({"curves": {"a": [[0, 0.5]]}, "curve_experiences": {"a": [0, 2]}}, "'curve_experiences' of 'a' must be 1 asc"),
        ({"curves": {"a": [[0, 0.5], [5, 0.5]]}, "curve_experiences": {"a": [2, 0]}}, "ascending numbers from 0"),
        ({"curve_experiences": {"a": [0]}}, "'curve_experiences' has 'a', which has no curve"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ConfigurationError, match=message):
        repeated(**change)


EPISODES = 2
BENCHMARKS = {
    "libero": ("libero_fwt", "libero_nbt", "libero_auc"),
    "cw": ("cw_performance", "cw_forgetting", "cw_forward_transfer"),
}
"""The measures of the benchmark that a stream's name begins with; of all others what is shown first."""


def episodes_of(stream, generator):
    """The episode table of a run over a stream: every task met so far after each experience, three points per curve."""
    table = TrialTable(LAYOUT)

    def roll_out(task, experience, step, split):
        for state in range(1 if split == "report" and len(stream) > 20 else EPISODES):  # long streams: quick enough
            success = generator.random() < 0.6 if split == "report" else state == 0
            outcome = Outcome.SUCCESS if success else Outcome.FAILURE
            episode = Episode(task.id, split, state, outcome, 20, 5, 1.0, 0.1, None)
            table.append(trial_of(episode, "fast", None), experience=experience, step=step, split=split)

    met = {}
    for experience in stream:
        start = 100 * experience.index
        for task in experience.tasks:
            for step in (start, start + 50, start + 100):
                roll_out(task, experience.index, step, "select")
            met[task.id] = task
        for task in experience.tasks if stream.independent else met.values():
            roll_out(task, experience.index, start + 100, "report")
    return table


@pytest.mark.parametrize("name", [name for name in choices("stream") if name[:4] != "bed_"])
def test_every_shipped_stream_gives_its_benchmarks_metrics(name, request):
    overrides = ["plugins=[toy_world]", "suite=point"] if name == "datasets" else []
    settings = compose([f"stream={name}", *overrides], folders=[CONF])
    alone = compose([f"stream={name}", "arrangement=independent", *overrides], folders=[CONF])
    if name == "datasets":
        for chosen in (settings, alone):
            chosen["stream"]["datasets"] = [str(root) for root in request.getfixturevalue("point_datasets")]
    generator = np.random.default_rng(0)
    matrices = []
    for chosen in (settings, alone):
        stream = sources(chosen).stream
        matrices.append(score_matrix(episodes_of(stream, generator), stream, len(stream)))
    found = compute_all(*matrices)
    own = next((names for start, names in BENCHMARKS.items() if name.startswith(start)), HEADLINE)
    for metric in METRICS:
        if metric.name in own:
            estimate = found[metric.name]
            assert math.isfinite(estimate.value), metric.name
            assert math.isnan(estimate.low) == bool(estimate.why), metric.name
    undefined = {metric for metric, estimate in found.items() if math.isnan(estimate.value)}
    assert undefined <= {"gem_fwt"}  # needs evaluation.future_tasks=true and evaluation.untrained=true


def test_a_run_over_a_repeating_stream_writes_passes():
    red, blue = Task("toy/red", "go red", 9), Task("toy/blue", "go blue", 9)
    stream = Stream(
        "s", tuple(Experience(i, n, (t,)) for i, (n, t) in enumerate(zip("rbq", (red, blue, red), strict=True)))
    )
    matrix = score_matrix(episodes_of(stream, np.random.default_rng(0)), stream, 3)
    assert matrix.positions == (0, 1, 0)
    assert matrix.curve_experiences.keys() == {"toy/red"}
    assert [matrix.learning_curve(k)[:, 0].tolist() for k in range(3)] == [
        [0, 50, 100],
        [100, 150, 200],
        [200, 250, 300],
    ]
    unfinished = score_matrix(episodes_of(stream, np.random.default_rng(0)), stream, 2)
    assert unfinished.positions is None

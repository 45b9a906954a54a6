"""What is said at the end of a run: figures over what they are over, for every arrangement."""

import math

import numpy as np
import pytest

from vla_cl.cli import outcome
from vla_cl.metrics import ScoreMatrix

NAN = math.nan


def results(folder, success, stream):
    tasks = tuple(dict.fromkeys(task for brought in stream for task in brought))
    success = np.asarray(success)
    rows = tuple(f"row {number}" for number in range(len(success)))
    episodes = np.where(np.isnan(success), 0, 10)
    ScoreMatrix(tasks, rows, success, episodes, stream=stream).write(folder / "matrix.json")
    return outcome._results(folder)


def test_an_independent_run_says_success_just_after_learning(tmp_path):
    (line,) = results(tmp_path, [[0.6, NAN], [NAN, 0.8]], (("a",), ("b",)))
    assert line.startswith("success just after learning each task (learning_accuracy): 0.700 [")
    assert line.endswith("over 2 tasks, 95 % interval")


def test_one_task_says_success_at_the_end(tmp_path):
    (line,) = results(tmp_path, [[0.6]], (("a",),))
    assert line.startswith("success at the end (final_average): 0.600 [") and "over 1 task," in line


def test_an_independent_run_of_several_tasks_at_once_says_what_was_measured(tmp_path):
    (line,) = results(tmp_path, [[0.6, 0.3, NAN], [NAN, NAN, 0.9]], (("a", "b"), ("c",)))
    assert line == "success when evaluated last: 0.600, mean over 3 tasks"


def test_a_matrix_without_any_number_is_no_rollout(tmp_path):
    assert results(tmp_path, [[NAN]], (("a",),)) == ["nothing was rolled out"]


@pytest.mark.parametrize(
    ("success", "stream", "over"),
    [
        ([[0.8, NAN], [0.4, 0.8]], (("a",), ("b",)), "over 1 old task,"),
        ([[0.8, NAN, NAN], [0.4, 0.8, NAN], [0.4, 0.8, 0.8]], (("a",), ("b",), ("c",)), "over 2 old tasks,"),
        (
            *([[0.8, NAN], [0.4, 0.8], [0.8, 0.4]], (("a",), ("b",), ("a",))),
            "over 2 earlier positions of the stream,",
        ),
    ],
)
def test_forgetting_is_over_what_can_be_forgotten(tmp_path, success, stream, over):
    end, forgetting = results(tmp_path, success, stream)
    assert f"over {len(success[0])} tasks," in end
    assert forgetting.startswith("forgetting (simple_recipe_nbt): ") and over in forgetting

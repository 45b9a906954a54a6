"""The summary of an evaluation says of a mean over tasks what ``vla-cl metrics`` says of it."""

import numpy as np
import pytest

from vla_cl.metrics import ScoreMatrix, compute_all
from vla_cl.rollout.journal import Entry
from vla_cl.rollout.summary import describe, summarise
from vla_cl.types import Episode, Outcome


def entries(counts):
    """Finished episodes: of each task so many, the first of them successful."""
    return [
        Entry(Episode(f"s/task-{task}", "report", state, outcome(state < successes), 1, 1, 0.0, 1.0), None, 0, 1.0)
        for task, (successes, episodes) in enumerate(counts)
        for state in range(episodes)
    ]


def outcome(success):
    return Outcome.SUCCESS if success else Outcome.FAILURE


@pytest.mark.parametrize(
    "counts",
    [
        [(3, 5)],
        [(0, 20), (20, 20)],
        [(10, 10), (10, 10), (10, 10)],
        [(0, 1), (0, 3)],
        [(1, 2), (19, 20), (3, 50)],
        [(5, 5), (0, 100), (1, 1), (7, 30)],
    ],
)
def test_the_mean_has_the_interval_that_metrics_gives_it(counts, tmp_path):
    names = tuple(f"task-{task}" for task in range(len(counts)))
    successes, episodes = np.array(counts).T
    matrix = ScoreMatrix(names, ("all",), (successes / episodes)[None], episodes[None])
    expected = compute_all(matrix)["final_average"]
    found = summarise(entries(counts))
    assert found["mean_success"] == pytest.approx(expected.value, abs=1e-12)
    assert found["mean_interval"] == pytest.approx([expected.low, expected.high], abs=1e-12)
    low, high = expected.low, expected.high
    assert f"[{low:.1%}, {high:.1%}]" in describe(found, tmp_path).partition("mean")[2]


def test_the_mean_of_one_task_has_the_interval_of_the_task():
    found = summarise(entries([(3, 7)]))
    assert found["mean_interval"] == pytest.approx(found["tasks"]["s/task-0"]["interval"], abs=1e-9)

import math

import numpy as np
import pytest

from vla_cl.evaluation.table import Cell, TrialTable
from vla_cl.interfaces.layout import TrialLayout
from vla_cl.run.folder import score_matrix
from vla_cl.scores import Measure, Trial
from vla_cl.types import ConfigurationError, Experience, Stream, Task

MATCH = Measure("match", "higher", "proportion", 0.0, 1.0)
LOSS = Measure("loss", "lower", "mean", 0.0, 9.0)
LAYOUT = TrialLayout((MATCH, LOSS), {"answer": "string"})
TASKS = [Task("t/a", "a", 1), Task("t/b", "b", 1)]


def trial(task, unit, match, loss, answer=None):
    return Trial(task, unit, "ok", {"match": match, "loss": loss}, {"answer": answer})


@pytest.fixture
def table():
    table = TrialTable(LAYOUT)
    for unit, (match, loss) in enumerate([(1.0, 0.5), (0.0, 1.5), (1.0, 1.0)]):
        table.append(trial("t/a", unit, match, loss, "yes"), experience=0, step=7, split="report")
    table.append(
        Trial("t/a", 3, "error", {}, {"answer": None}, error="Traceback"), experience=0, step=7, split="report"
    )
    table.append(trial("t/b", 0, 1.0, 2.0), experience=1, step=9, split="report")
    return table


def test_a_trial_that_could_not_be_carried_out_counts_as_the_worst(table):
    spread = float(np.std([1, 0, 1, 0], ddof=1))
    assert table.cells(0)["t/a"] == Cell(0.5, 4, 1, spread)
    found = table.cells(0, measure=LOSS)["t/a"]
    assert (found.value, found.count, found.errors) == (3.0, 4, 1)
    assert math.isnan(table.cells(1)["t/b"].spread)


def test_whole_numbers_and_truths_are_scores_too(tmp_path):
    table = TrialTable(LAYOUT)
    values = {"match": True, "loss": np.float32(2)}
    odd = Trial("t/a", np.int64(3), "ok", values, {"answer": None})
    table.append(odd, experience=0, step=1, split="report")
    table.write(tmp_path / LAYOUT.file)
    assert TrialTable.read(tmp_path / LAYOUT.file, LAYOUT).rows == table.rows


def test_a_trial_without_a_score_or_a_column_is_refused_at_once():
    for values, columns, words in (({"match": 1}, {"answer": None}, "no loss"), ({}, {}, "lacks answer")):
        with pytest.raises(ConfigurationError, match=words):
            trial = Trial("t/a", 0, "ok", values, columns)
            TrialTable(LAYOUT).append(trial, experience=0, step=1, split="report")


def test_where_there_is_no_worst_value_a_failed_trial_is_left_out():
    unbounded = Measure("nll", "lower", "mean", 0.0)
    layout = TrialLayout((unbounded,), {})
    table = TrialTable(layout)
    for unit, value in enumerate((1.0, None, 3.0)):
        found = Trial("t/a", unit, "error" if value is None else "ok", {} if value is None else {"nll": value})
        table.append(found, experience=0, step=1, split="report")
    table.append(Trial("t/b", 0, "error", {}), experience=0, step=1, split="report")
    cells = table.cells(0)
    assert (cells["t/a"].value, cells["t/a"].count, cells["t/a"].errors) == (2.0, 2, 1)
    assert (math.isnan(cells["t/b"].value), cells["t/b"].count) == (True, 0)
    stream = Stream("s", tuple(Experience(number, task.name, (task,)) for number, task in enumerate(TASKS)))
    assert np.isnan(score_matrix(table, stream, 1, measure=unbounded).scores[0, 1])


def test_written_and_read(table, tmp_path):
    table.write(tmp_path / LAYOUT.file)
    assert TrialTable.read(tmp_path / LAYOUT.file, LAYOUT).rows == table.rows
    assert list(table.rows[0]) == list(LAYOUT.columns)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"status": "perhaps"}, "the status perhaps"), ({"match": None}, "no match"), ({"split": "x"}, "the split x")],
)
def test_what_no_trial_says_is_refused(table, tmp_path, change, words):
    rows = table.rows
    rows[0] |= change
    TrialTable(LAYOUT, rows).write(tmp_path / LAYOUT.file)
    with pytest.raises(ConfigurationError, match=f"has {words}, which is none"):
        TrialTable.read(tmp_path / LAYOUT.file, LAYOUT)


def test_a_matrix_for_each_measure(table):
    stream = Stream("s", tuple(Experience(number, task.name, (task,)) for number, task in enumerate(TASKS)))
    matrices = {measure.name: score_matrix(table, stream, 2, measure=measure) for measure in (MATCH, LOSS)}
    assert matrices["match"].scores[0, 0] == 0.5
    assert matrices["loss"].scores[1, 1] == 2.0
    assert matrices["match"].spread is None
    assert matrices["loss"].spread[0, 0] == pytest.approx(np.std([0.5, 1.5, 1.0, 9.0], ddof=1))

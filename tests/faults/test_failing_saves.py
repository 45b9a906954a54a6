"""Every call of the file system that a save makes fails once: the old state or the new one is there, and loads."""

import errno
import json

import pytest
from faults_injected import FailingCalls
from tiny_model import TinyModel

from vla_cl.evaluation.table import TrialTable
from vla_cl.files import remove_leftovers
from vla_cl.interfaces import Method
from vla_cl.metrics import ScoreMatrix
from vla_cl.rollout.evaluator import trial_of
from vla_cl.rollout.journal import Journal
from vla_cl.rollout.table import EPISODES
from vla_cl.run import checkpoint
from vla_cl.run.checkpoint import Progress
from vla_cl.run.folder import RunFolder
from vla_cl.run.tracking import Tracker
from vla_cl.types import ConfigurationError, Episode, EpisodeRequest, Outcome, Task

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
TASK = Task("toy/red", "go", 30)


def every_failure(monkeypatch, save, check):
    """Let call after call fail, each error in turn, until a save comes through; how many failed."""
    number = 0
    while True:
        error = ERRORS[number % len(ERRORS)]
        with FailingCalls(monkeypatch, number, error) as calls:
            try:
                save()
            except OSError as failure:
                assert failure.errno == error
            except ConfigurationError as failure:  # of a file that could not be read
                assert failure.__cause__.errno == error
        if not calls.failed:
            return number
        check()
        number += 1


def table(steps):
    filled = TrialTable(EPISODES)
    for state in range(3):
        episode = Episode(TASK.id, "report", state, Outcome.SUCCESS, steps, 1, 1.0, 0.5, None)
        filled.append(trial_of(episode, "plain", None), experience=0, step=steps, split="report")
    return filled


@pytest.mark.parametrize("number", [1, 2], ids=["in place of an old one", "the next"])
def test_checkpoints(tmp_path, monkeypatch, number):
    def save(step):
        checkpoint.save(tmp_path, TinyModel(step), Method(), Progress(number, step, 0.0, 0.0), [table(step)])

    checkpoint.save(tmp_path, TinyModel(), Method(), Progress(1, 10, 0.0, 0.0), [table(10)])

    def check():
        remove_leftovers(tmp_path, alone=True)
        assert list(tmp_path.rglob(".*")) == []
        newest = checkpoint.find_newest(tmp_path)
        assert newest.passed_over == ()
        progress = checkpoint.load_progress(newest.folder)
        assert progress.step in (10, 20)
        rows = TrialTable.read(newest.folder / checkpoint.STATE / EPISODES.file, EPISODES).rows
        assert {row["step"] for row in rows} == {progress.step}

    assert every_failure(monkeypatch, lambda: save(20), check) > 30
    assert checkpoint.load_progress(checkpoint.find_newest(tmp_path).folder).step == 20


def test_the_start_of_a_run(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")

    def start():
        with folder.open({"a": 1}):
            pass

    def check():
        with folder.open({"a": 1}):
            assert (tmp_path / "run" / "config.yaml").read_text().endswith("a: 1\n")
        assert [path.name for path in folder.root.rglob("*")] == ["config.yaml"]
        (folder.root / "config.yaml").unlink()
        folder.root.rmdir()

    assert every_failure(monkeypatch, start, check) > 10


def test_tables_and_matrices(tmp_path, monkeypatch):
    paths = tmp_path / "episodes.parquet", tmp_path / "matrix.json"

    def save(value):
        table(int(value * 10)).write(paths[0])
        ScoreMatrix(("toy/red",), ("first",), [[value]], [[4]]).write(paths[1])

    def check():
        remove_leftovers(tmp_path, alone=True)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
        assert TrialTable.read(paths[0], EPISODES).rows[0]["step"] in (5, 10)
        assert ScoreMatrix.from_json(paths[1]).scores[0, 0] in (0.5, 1.0)

    save(0.5)
    assert every_failure(monkeypatch, lambda: save(1.0), check) > 8


def test_journals(tmp_path, monkeypatch):
    def append():
        with Journal(tmp_path / "e", {"split": "report"}) as journal:
            episode = Episode(TASK.id, "report", len(journal), Outcome.SUCCESS, 3, 1, 1.0, 0.5, None)
            journal.append(episode, None, 1.0)

    def check():
        with Journal(tmp_path / "e", {"split": "report"}) as journal:
            found = [journal.find(EpisodeRequest(TASK, "report", state)) for state in range(len(journal))]
            assert None not in found

    append()
    assert every_failure(monkeypatch, append, check) > 10
    assert [path.name for path in (tmp_path / "e").glob(".*")] == []


def test_logs(tmp_path, monkeypatch):
    with Tracker(tmp_path) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, loss=0.5)

    def forget():
        with Tracker(tmp_path) as tracker:
            tracker.continue_after(2)

    def check():
        remove_leftovers(tmp_path)
        steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert steps in ([1, 2], [1, 2, 3])
        if steps == [1, 2]:
            with Tracker(tmp_path) as tracker:
                tracker.log(3, loss=0.5)

    assert every_failure(monkeypatch, forget, check) >= 3

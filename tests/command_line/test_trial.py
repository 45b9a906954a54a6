"""Trials that a person scores: blind, shuffled, resumed, and a matrix in the end."""

import json
import shutil
from pathlib import Path

import pytest
from dataset_streams import POINT, train

from vla_cl.cli import trial as dialogue
from vla_cl.cli.main import main
from vla_cl.metrics import ScoreMatrix
from vla_cl.metrics.matrix import load_matrix
from vla_cl.run.hand_trials import HandTrials
from vla_cl.storage.manifest import seal
from vla_cl.types import ConfigurationError

SMALL = [*POINT, "stream=points", "demonstrations.episodes=3", "demonstrations.workers=1"]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    return train(tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("runs") / "run", *SMALL)


@pytest.fixture
def run(learnt, tmp_path):
    return shutil.copytree(learnt, tmp_path / "run", symlinks=True)


class Person:
    """Types what is listed, then ends the input; keeps what lay in the policy's folder at each question."""

    def __init__(self, run, *lines):
        self.lines, self.weights = list(lines), []
        self.folder = run / "trials" / "policy"

    def __call__(self, question):
        if "note" not in question and self.folder.is_dir():
            self.weights.append((self.folder / "model.safetensors").read_bytes())
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)


def scored(run, *lines, finish=False, **options):
    person = Person(run, *lines)
    chosen = {"count": None, "tasks": None, "checkpoints": None} | options
    answer = dialogue.trial(run, chosen, finish, person)
    return answer, person


def planned(run):
    return [tuple(item) for item in json.loads((run / "trials" / "plan.json").read_text())["trials"]]


def test_each_task_behind_its_own_checkpoint_and_the_last(run):
    scored(run, count=2)
    cells = {(experience, task) for experience, task, _ in planned(run)}
    assert cells == {(0, "point/red"), (1, "point/red"), (1, "point/green")}
    assert sorted(planned(run)) == sorted((*cell, unit) for cell in cells for unit in (1, 2))
    assert planned(run) != sorted(planned(run))  # shuffled


def test_the_policy_that_lies_there_is_the_one_that_is_tried_and_nothing_says_which(run, capsys):
    _, person = scored(run, *["s", ""] * 6, count=2)
    of_checkpoint = [(run / "checkpoints" / f"{number:03d}" / "pretrained_model" / "model.safetensors").read_bytes()
                     for number in (1, 2)]  # fmt: skip
    assert person.weights == [of_checkpoint[experience] for experience, _, _ in planned(run)]
    shown = capsys.readouterr().out
    assert "checkpoints" not in shown
    assert "001" not in shown
    times = {path.stat().st_mtime for path in (run / "trials" / "policy").iterdir()}
    assert len(times) == 1
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in (run / "trials" / "policy").iterdir())


def test_answers_fill_the_matrix_and_are_kept_apart_from_rollouts(run, capsys):
    rolled_out = (run / "matrix.json").read_bytes()
    scored(run, count=2)
    by_cell = {(0, "point/red"): "s", (1, "point/red"): "f", (1, "point/green"): "s"}
    lines = [line for experience, task, _ in planned(run) for line in (by_cell[experience, task], "bumped the cup")]
    answer, _ = scored(run, *lines)
    matrix = ScoreMatrix.from_json(run / "matrix-trial_success.json")
    assert matrix.scores[0, 0] == 1
    assert matrix.scores[1].tolist() == [0, 1]
    assert matrix.counts.tolist() == [[2, 0], [2, 2]]
    assert answer.content["answered"] == answer.content["trials"] == 6
    assert "after red: point/red 2 of 2" in answer.text
    assert (run / "matrix.json").read_bytes() == rolled_out
    assert main(["metrics", str(run), "--measure", "trial_success"]) == 0
    assert "success in trials" in capsys.readouterr().out


def test_it_goes_on_where_it_was_left_and_skipped_ones_come_again(run):
    scored(run, "s", "", "k", "f", "fell", "q", count=2)
    trials = HandTrials(run)
    with trials.open(None, None, None):
        given = [trials.answer(item) for item in trials.planned]
    assert [item is not None for item in given] == [True, False, True, False, False, False]
    assert given[2].columns["note"] == "fell"
    answer, person = scored(run, *["s", ""] * 4)
    assert len(person.weights) == 4
    assert answer.content["answered"] == 6


def test_back_asks_the_one_before_again(run):
    scored(run, "f", "", "b", "s", "", "q", count=1)
    trials = HandTrials(run)
    with trials.open(None, None, None):
        assert trials.answer(trials.planned[0]).values["trial_success"] == 1
        assert trials.answer(trials.planned[1]) is None


def test_all_that_is_left_was_skipped(run):
    answer, person = scored(run, "k", "k", "k", count=1)
    assert len(person.weights) == 3
    assert "0 of 3 trials answered" in answer.text
    with pytest.raises(ConfigurationError, match="no trial was answered"):
        scored(run, finish=True)


def test_what_is_answered_can_be_scored_before_the_end(run):
    scored(run, "s", "", count=1)
    answer, _ = scored(run, finish=True)
    matrix = load_matrix(run, "trial_success")
    assert matrix.counts.sum() == 1
    assert answer.content["matrix"].endswith("matrix-trial_success.json")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 3}, "planned with another --count"),
        ({"tasks": ["green"]}, "planned with another --tasks"),
        ({"checkpoints": [1]}, "planned with another --checkpoints"),
        ({"tasks": ["blue"]}, "has no task 'blue'; it has red, green"),
    ],
)
def test_other_trials_than_planned_are_refused(run, given, words):
    scored(run, count=2)
    with pytest.raises(ConfigurationError, match=words):
        scored(run, **given)


def test_checkpoints_and_tasks_of_ones_choice(run):
    scored(run, count=1, tasks=["go to the red side"], checkpoints=[2])
    assert planned(run) == [(1, "point/red", 1)]
    shutil.rmtree(run / "trials")
    with pytest.raises(ConfigurationError, match=r"no checkpoint 7 in .*; it has 1, 2"):
        scored(run, checkpoints=[7])


@pytest.mark.parametrize("trial", [[0, "point/green", 1], [7, "point/red", 1], [-1, "point/red", 1], [1, "no/task", 1],
                                   [1, "point/red", 10**30]])  # fmt: skip
def test_a_plan_of_trials_that_cannot_be_is_refused(run, trial):
    scored(run, count=1)
    path = run / "trials" / "plan.json"
    plan = json.loads(path.read_text())
    del plan["seal"]
    path.write_text(json.dumps(seal(plan | {"trials": [trial]})))
    with pytest.raises(ConfigurationError, match="a trial that cannot be made"):
        scored(run)


def test_a_checkpoint_that_is_damaged_after_planning_is_not_tried(run):
    scored(run, count=1)
    path = run / "checkpoints" / "001" / "pretrained_model" / "config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ConfigurationError, match="is damaged"):
        scored(run, "s", "")


def test_names_given_twice_or_in_another_order_are_the_same_trials(run):
    scored(run, count=1, tasks=["green", "red", "red"], checkpoints=[2, 1, 2])
    assert len(planned(run)) == len(set(planned(run))) == 3
    scored(run, tasks=["red", "green"], checkpoints=[1, 2])


@pytest.mark.parametrize("what", ["plan", "answers", "checkpoint"])
def test_damage_is_refused_and_no_answer_is_lost(run, what):
    scored(run, "s", "", "f", "", "s", "", "q", count=2)
    answers = run / "trials" / "answers.jsonl"
    path = {"plan": run / "trials" / "plan.json", "answers": answers,
            "checkpoint": run / "checkpoints" / "001" / "pretrained_model" / "model.safetensors"}[what]  # fmt: skip
    content = path.read_bytes()
    damaged = (
        content.replace(b'"unit": 1', b'"unit": 9', 1) if what == "answers" else content[:-9] + b"9" + content[-8:]
    )
    assert damaged != content
    path.unlink()  # not through a link
    path.write_bytes(damaged)
    if what == "checkpoint":
        shutil.rmtree(run / "trials")
    before = answers.read_bytes() if answers.exists() else b""
    with pytest.raises(ConfigurationError):
        scored(run, "s", "")
    assert (answers.read_bytes() if answers.exists() else b"") == before


def test_a_torn_last_answer_is_asked_again(run):
    scored(run, "s", "", "s", "", "q", count=2)
    path = run / "trials" / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    answer, person = scored(run, *["s", ""] * 5)
    assert len(person.weights) == 5
    assert answer.content["answered"] == 6


def test_from_the_command_line(run, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", Person(run, "success", "", "what?", "q"))
    assert main(["trial", str(run), "--count", "1", "--tasks", "red"]) == 0
    shown = capsys.readouterr().out
    assert "go to the red side" in shown
    assert "1 of 2 trials answered" in shown
    assert main(["trial", str(Path(run).parent)]) == 2
    assert "is no run" in capsys.readouterr().err
    assert main(["trial", str(run), "--count", "0"]) == 2
    assert "whole number from 1" in capsys.readouterr().err


def test_a_method_that_must_be_told_the_task_is_refused(run):
    path = run / "run.json"
    content = json.loads(path.read_text())
    del content["seal"]
    path.write_text(json.dumps(content | {"told_the_task": True, "method": "packnet"}))
    with pytest.raises(ConfigurationError, match="'packnet' must be told which task"):
        scored(run)

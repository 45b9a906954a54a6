"""A run that is killed while it is scored makes no trial twice, and ends as the undisturbed one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_streams import POINT, train
from odd_datasets import make_dataset

from vla_cl.evaluation.journal import JOURNALS, TrialJournal
from vla_cl.metrics import ScoreMatrix
from vla_cl.rollout.engine import Engine
from vla_cl.scores import Trial
from vla_cl.training.stopping import Stopped

TESTS = Path(__file__).parents[1]
SMALL = [*POINT, "stream=points", "demonstrations.episodes=4", "demonstrations.workers=1", "evaluation.episodes=6",
         "evaluation.untrained=true", "evaluation.curve_points=1", "evaluation.curve_episodes=3", "data.held_out=3",
         "evaluation.videos=1"]  # fmt: skip
# untrained, then for each of two experiences two points of a curve and the report
EVALUATIONS = 7


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    return train(cache, tmp_path_factory.mktemp("whole") / "run", *SMALL)


def results(folder):
    """Weights, and matrices of every measure."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
    for path in folder.glob("matrix*.json"):
        content = json.loads(path.read_text())
        found[path.name] = {key: value for key, value in content.items() if key not in ("run", "seal")}
    return found


class Counting:
    """Counts episodes as they are rolled out, and raises as a signal would behind the n-th."""

    def __init__(self, monkeypatch, stop_behind=None):
        self.made, self.stop_behind, original = [], stop_behind, Engine.run

        def run(engine, policy, requests, progress=True):
            def keep(episode):
                progress(episode)
                self.made.append((episode.task, episode.initial_state))
                if len(self.made) == self.stop_behind:
                    raise Stopped(signal.SIGTERM)

            return original(engine, policy, requests, keep)

        monkeypatch.setattr(Engine, "run", run)


def test_no_journal_is_left_at_the_end(whole):
    assert not (whole / JOURNALS).exists()


@pytest.mark.parametrize("number", [1, 13, 16, 20, 33])
def test_no_episode_is_rolled_out_twice(whole, cache, tmp_path, monkeypatch, number):
    with monkeypatch.context() as patch:
        total = Counting(patch)
        train(cache, tmp_path / "count", *SMALL)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        Counting(patch, stop_behind=number)
        train(cache, tmp_path / "run", *SMALL)
    with monkeypatch.context() as patch:
        rest = Counting(patch)
        again = train(cache, tmp_path / "run", *SMALL)
    assert len(rest.made) == len(total.made) - number
    assert results(again) == results(whole)
    films = {path.name for path in (again / "videos").iterdir()}
    assert films == {path.name for path in (whole / "videos").iterdir()}


def test_trials_of_other_weights_are_made_again(cache, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        Counting(patch, stop_behind=2)
        train(cache, tmp_path / "run", *SMALL)
    (journal,) = (tmp_path / "run" / JOURNALS).iterdir()
    head, *lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    journal.write_text(head.replace('"weights": "', '"weights": "0') + "".join(lines))
    with monkeypatch.context() as patch:
        counted = Counting(patch)
        train(cache, tmp_path / "run", *SMALL)
    with monkeypatch.context() as patch:
        undisturbed = Counting(patch)
        train(cache, tmp_path / "other", *SMALL)
    assert len(counted.made) == len(undisturbed.made)


TRIALS = [Trial("a/b", unit, "ok", {"score": 0.1 + unit}, {"note": None, "steps": 3}, 0.25, None) for unit in range(4)]


def written(path, which):
    with TrialJournal(path, which) as journal:
        for trial in TRIALS[:3]:
            journal.append(1, trial)
    return path.read_bytes()


def known(path, which):
    with TrialJournal(path, which) as journal:
        return dict(journal.known(1))


@pytest.mark.parametrize("end", [1, 5, 80])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path, end):
    path, which = tmp_path / "j" / "a.jsonl", {"step": 1}
    content = written(path, which)
    path.write_bytes(content[:-end])
    with TrialJournal(path, which) as journal:
        assert list(journal.known(1).values()) == TRIALS[:2]
        journal.append(1, TRIALS[3])
    assert list(known(path, which).values()) == [*TRIALS[:2], TRIALS[3]]


@pytest.mark.parametrize("old", [b'"unit": 1', b'"score": 1.1', b'"ok"', b'"evaluator": 1'])
def test_what_was_changed_is_made_again(tmp_path, old):
    path, which = tmp_path / "j" / "a.jsonl", {"step": 1}
    content = written(path, which)
    first, second = content.index(b"\n"), content.rindex(b"\n", 0, -1)
    middle = content[first:second].replace(old, old.replace(b"1", b"2").replace(b"ok", b"no"))
    path.write_bytes(content[:first] + middle + content[second:])
    assert known(path, which).keys() < {(trial.task, trial.unit) for trial in TRIALS[:3]}
    assert all(trial in TRIALS for trial in known(path, which).values())


def test_another_evaluation_begins_anew(tmp_path):
    path = tmp_path / "j" / "a.jsonl"
    written(path, {"step": 1})
    assert known(path, {"step": 2}) == {}
    assert known(path, {"step": 1}) == {}


def test_lines_of_another_journal_are_not_taken(tmp_path):
    one, other = tmp_path / "j" / "a.jsonl", tmp_path / "j" / "b.jsonl"
    lines = written(one, {"step": 1}).splitlines(keepends=True)
    head = written(other, {"step": 2}).splitlines(keepends=True)[0]
    other.write_bytes(head + b"".join(lines[1:]))
    assert known(other, {"step": 2}) == {}


def test_a_real_kill_between_two_trials(tmp_path):
    """The process ends without a word behind the third trial; the journal has all three."""
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom vla_cl.evaluation.journal import TrialJournal\n"
        "from vla_cl.scores import Trial\n"
        f"with TrialJournal(Path({str(tmp_path / 'j' / 'a.jsonl')!r}), {{'step': 1}}) as journal:\n"
        "    for unit in range(3):\n"
        "        journal.append(0, Trial('a/b', unit, 'ok', {'score': 1.0}))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == -signal.SIGKILL
    with TrialJournal(tmp_path / "j" / "a.jsonl", {"step": 1}) as journal:
        assert [unit for _, unit in journal.known(0)] == [0, 1, 2]


def test_trials_of_data_that_were_changed_meanwhile_are_made_again(tmp_path, monkeypatch):
    def recorded(factor):
        def action(episode, step):
            return factor * np.sin(np.arange(4) + step / 3 + episode)

        return make_dataset(tmp_path / "arm", [("pick", 6)] * 6, {"observation.image": (16, 16)}, action_of=action)

    wanted = ["stream=datasets", "data.held_out=4", "evaluation.untrained=true"]
    original = TrialJournal.append

    def append(journal, evaluator, trial):
        original(journal, evaluator, trial)
        raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(TrialJournal, "append", append)
        train(tmp_path / "cache", tmp_path / "run", *wanted, datasets=[recorded(1)])
    assert list((tmp_path / "run" / JOURNALS).iterdir())
    changed = [recorded(100)]
    again, fresh = (train(tmp_path / "cache", tmp_path / name, *wanted, datasets=changed) for name in ("run", "fresh"))
    assert (
        ScoreMatrix.from_json(again / "matrix.json").baseline == ScoreMatrix.from_json(fresh / "matrix.json").baseline
    )

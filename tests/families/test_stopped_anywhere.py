"""A run that is stopped at any moment ends, when its command is given again, as the undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from composed import composed

from vla_cl import files
from vla_cl.cli.main import main
from vla_cl.run import continual
from vla_cl.run import root as run
from vla_cl.training.learning import Learning
from vla_cl.training.stopping import Stopped, StopRequest, between_steps

TESTS = Path(__file__).parents[1]
BED = ["stream=bed_policy_regression", "training.steps=4", "training.batch_size=8", "evaluation.episodes=4",
       "evaluation.curve_points=2", "evaluation.curve_episodes=2", "evaluation.untrained=true", "device=cpu",
       "threads=1"]  # fmt: skip
CASES = {
    "er": ["method=er"],
    "packnet": ["method=packnet"],
    "si": ["method=si"],
    "er_copies": ["method=er", "method.memory={samples_per_task: 8, keep: copy}"],
    "independent": ["method=sequential", "arrangement=independent"],
    "joint": ["method=sequential", "arrangement=joint"],
}


def train(folder, *overrides):
    return run.train(composed(*BED, *overrides, output_dir=folder))


def results(folder):
    """Weights, what the method kept, the matrix, and which steps are logged."""
    tensors = sorted((folder / "checkpoints").rglob("*.safetensors"))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in tensors}
    content = json.loads((folder / "matrix.json").read_text())
    found["matrix"] = {key: value for key, value in content.items() if key not in ("run", "seal")}  # of another folder
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found, steps


class StopAt:
    """Raises as a signal would at the n-th call of what it stands before, or right behind it."""

    def __init__(self, monkeypatch, holder, name, number, behind):
        self.original, self.number, self.behind, self.calls = getattr(holder, name), number, behind, 0
        monkeypatch.setattr(holder, name, self)

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.calls == self.number and not self.behind:
            raise Stopped(signal.SIGTERM)
        found = self.original(*arguments, **named)
        if self.calls == self.number:
            raise Stopped(signal.SIGTERM)
        return found


@pytest.fixture(scope="module", params=CASES)
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / request.param
    return train(folder, *CASES[request.param]), CASES[request.param]


MOMENTS = [
    *[("save_within", number, True) for number in (1, 2, 3, 4, 6, 9)],
    *[("save_learnt", number, behind) for number in (1, 2, 3) for behind in (False, True)],
    ("remove", 1, False),
]
SOME_MOMENTS = [("save_within", 2, True), ("save_within", 6, True), ("save_learnt", 1, True), ("save_learnt", 2, False)]
"""For what differs in what is saved, not in when: within the first task and a later one, at either side of a border."""
AT_EVERY_MOMENT = ("er", "packnet", "independent")


@pytest.mark.parametrize(
    ("whole", "what", "number", "behind"),
    [(case, *moment) for case in CASES for moment in (MOMENTS if case in AT_EVERY_MOMENT else SOME_MOMENTS)],
    indirect=["whole"],
)
def test_it_ends_as_the_undisturbed_one(whole, tmp_path, monkeypatch, what, number, behind):
    folder, overrides = whole
    with monkeypatch.context() as patch:
        stop = StopAt(patch, continual.underway, what, number, behind)
        try:
            train(tmp_path / "run", *overrides, "training.save_every=1")
        except Stopped:
            assert not (tmp_path / "run" / "checkpoints" / "003").exists()
        else:
            assert stop.calls < number  # a joint run has one experience
    again = train(tmp_path / "run", *overrides, "training.save_every=0")
    assert results(again) == results(folder)
    assert not (again / "underway").exists()


def test_what_lies_there_damaged_is_passed_over(whole, tmp_path, monkeypatch):
    folder, overrides = whole
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        StopAt(patch, continual.underway, "save_within", 2, behind=True)
        train(tmp_path / "run", *overrides, "training.save_every=1")
    weights = tmp_path / "run" / "underway" / "training_state" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    again = train(tmp_path / "run", *overrides, "training.save_every=0")
    assert results(again) == results(folder)
    (sentence,) = json.loads((again / "run.json").read_text())["passed_over"]
    assert "passing over" in sentence and "weights.safetensors is damaged" in sentence


def test_a_run_that_has_begun_is_not_continued_with_other_settings(tmp_path, monkeypatch):
    from vla_cl.types import ConfigurationError

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        StopAt(patch, continual.underway, "save_within", 1, behind=True)
        train(tmp_path / "run", "method=er", "training.save_every=1")
    with pytest.raises(ConfigurationError, match="holds a run with other settings"):
        train(tmp_path / "run", "method=sequential")


def test_a_signal_lets_the_step_end_and_the_second_one_does_not_wait():
    with between_steps() as asked:
        assert not asked.asked
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked.number == signal.SIGUSR1
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(Stopped):
        asked.raise_if_asked()


def test_a_signal_at_the_very_end_of_a_step_is_seen_in_the_next():
    request = StopRequest()
    with between_steps(request):
        os.kill(os.getpid(), signal.SIGUSR2)  # behind the last look at it
    with between_steps(request) as asked:
        assert asked.number == signal.SIGUSR2


def test_a_kill_while_the_place_is_removed_leaves_no_damaged_one(whole, tmp_path, monkeypatch):
    """The folder goes in one step, so that nothing is said to be passed over."""
    folder, overrides = whole
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        StopAt(patch, files.shutil, "rmtree", 1, behind=False)
        train(tmp_path / "run", *overrides, "training.save_every=0")
    again = train(tmp_path / "run", *overrides, "training.save_every=0")
    assert results(again) == results(folder)
    assert json.loads((again / "run.json").read_text())["passed_over"] == []
    assert [path.name for path in again.iterdir() if "underway" in path.name] == []


def assert_it_is_noted(folder, number, said):
    note = json.loads((folder / "underway" / "training_state" / "underway.json").read_text())
    assert note["experience"] == 0
    assert 1 <= note["done"] < 100_000
    assert f"stopped by {number.name}; the same command continues" in said


def endless(folder):
    return ["train", *BED, "method=er", "training.steps=100000", "evaluation.curve_points=0",
            "evaluation.untrained=false", f"output_dir={folder}"]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_within_a_step_is_noted_behind_it(tmp_path, monkeypatch, capfd, number):
    step, steps = Learning._step, iter(range(1, 100_000))

    def interrupted(learning, started):
        if next(steps) == 3:
            os.kill(os.getpid(), number)
        return step(learning, started)

    monkeypatch.setattr(Learning, "_step", interrupted)
    assert main(endless(tmp_path / "run")) == 128 + number
    assert_it_is_noted(tmp_path / "run", number, capfd.readouterr().err)
    assert next(steps) == 4  # none was begun behind the one with the signal


def test_a_command_that_is_asked_to_stop_notes_where_it_is(tmp_path):
    """In a process of its own, at any moment."""
    command = [sys.executable, "-m", "vla_cl.cli", *endless("run")]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=log, stdout=log)
        try:
            while not (tmp_path / "run" / "metrics.jsonl").is_file() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=300) == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert_it_is_noted(tmp_path / "run", signal.SIGTERM, (tmp_path / "log").read_text())

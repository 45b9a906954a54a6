"""Two commands at once: one writer per run, evaluation and dataset; readers never wait."""

import contextlib
import os
import signal
from uuid import uuid4

import pytest
import toy_commands
from processes import alive, wait_until
from toy_commands import COLLECT, CONF, DEMONSTRATIONS, POINT, TRAIN, Place, run

from vla_cl.storage.locks import only_writer


class Running:
    """A command that runs beside the test."""

    def __init__(self, arguments, log):
        self.log, self.marker = log, uuid4().hex
        self.process = toy_commands.start(arguments, log, self.marker)

    @property
    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, condition):
        wait_until(lambda: self.process.exitcode is not None or condition())
        assert self.process.exitcode is None, self.said

    def send(self, number):
        for pid in [self.process.pid, *alive(self.marker)]:
            os.kill(pid, number)

    def ends_well(self):
        self.process.join(300)
        assert self.process.exitcode == 0, self.said

    def kill(self):
        self.process.kill()
        self.process.join()
        wait_until(lambda: alive(self.marker) == [], 60)


@contextlib.contextmanager
def running(arguments, log):
    command = Running(arguments, log)
    try:
        yield command
    finally:
        command.kill()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_the_second_of_two_trainings_in_one_folder_is_refused_and_the_first_ends_well(place, tmp_path):
    with running(place.command(TRAIN), tmp_path / "first.log") as first:
        first.wait_for((place.run / "checkpoints" / "001").exists)
        first.send(signal.SIGSTOP)
        status, said = run(place.command(TRAIN), tmp_path / "log")
        assert status == 2
        (line,) = [line for line in said.splitlines() if line.startswith("vla-cl: ")]
        assert f"process {first.process.pid} (since " in line
        assert "is writing the run " in line
        assert len(line) < 300
        for reader in ("metrics", "report"):  # of a run that is being written
            assert run(place.command(reader), tmp_path / "log")[0] == 0
        evaluate = ["evaluate", *CONF, str(place.run), *POINT, "tasks=[red]", "evaluation.episodes=1",
                    "evaluation.workers=1", f"output_dir={place.evaluation}"]  # fmt: skip
        status, said = run(evaluate, tmp_path / "log")
        assert status == 0, said
        first.send(signal.SIGCONT)
        first.ends_well()
    status, said = run(place.command(TRAIN), tmp_path / "log")
    assert status == 0
    assert place.hidden() == []


def test_two_streams_record_side_by_side_and_one_that_wants_the_same_waits(place, tmp_path):
    red = [*place.command(COLLECT), "stream.tasks=[red]"]
    both = ["collect", *CONF, *POINT, *DEMONSTRATIONS, "stream.tasks=[blue,red]", f"cache_dir={place.cache}"]
    folder = place.cache / "demonstrations" / "point"
    with running(red, tmp_path / "first.log") as first:
        first.wait_for(lambda: list(folder.glob(".red-*.staged/0.npz")))
        first.send(signal.SIGSTOP)
        with running(both, tmp_path / "second.log") as second:
            second.wait_for(lambda: list(folder.glob("blue-*")))  # while the other is held in the middle of red
            second.wait_for(lambda: f"waiting: process {first.process.pid}" in second.said)
            assert "is writing the demonstrations" in second.said
            first.send(signal.SIGCONT)
            first.ends_well()
            second.ends_well()
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {"red", "blue"}


def test_a_lock_in_the_way_of_a_finished_dataset_blocks_nobody(place, tmp_path):
    assert run(place.command(COLLECT), tmp_path / "log")[0] == 0
    (target,) = (place.cache / "demonstrations" / "point").glob("red-*")
    with only_writer(target.with_name(f".{target.name}.lock"), "the same"):
        assert run(place.command(COLLECT), tmp_path / "log")[0] == 0


def test_the_second_of_two_exports_is_refused(place, tmp_path):
    target = tmp_path / "exported"
    with only_writer(tmp_path / ".exported.lock", "the dataset"):
        status, said = run(["memory", str(tmp_path), "--export", str(target)], tmp_path / "log")
    assert status == 2
    assert "vla-cl: " in said

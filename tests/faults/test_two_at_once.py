"""Two commands at once: one writer per run, evaluation and dataset; readers never wait."""

import contextlib
import os
import signal
import subprocess

import pytest
from processes import alive, start, wait_until
from toy_commands import COLLECT, CONF, DEMONSTRATIONS, POINT, TRAIN, Place, run

from vla_cl.locks import only_writer


def stopped(process, marker, condition):
    """Wait for a moment in a command's work, then hold it there."""
    wait_until(lambda: process.poll() is not None or condition())
    assert process.poll() is None
    for pid in alive(marker):
        os.kill(pid, signal.SIGSTOP)


@contextlib.contextmanager
def held(arguments, condition):
    """A command that has come to a moment of its work, and stays there during the body; then it goes on to its end."""
    process, marker = start(*arguments, stderr=subprocess.PIPE, text=True)
    try:
        stopped(process, marker, condition)
        yield process
        for pid in alive(marker):
            os.kill(pid, signal.SIGCONT)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    finally:
        process.kill()
        wait_until(lambda: alive(marker) == [], 60)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_the_second_of_two_trainings_in_one_folder_is_refused_and_the_first_ends_well(place, tmp_path):
    first = place.run / "checkpoints" / "001"
    with held(place.command(TRAIN), first.exists) as process:
        status, said = run(place.command(TRAIN), tmp_path / "log")
        assert status == 2
        (line,) = [line for line in said.splitlines() if line.startswith("vla-cl: ")]
        assert f"process {process.pid} (since " in line
        assert f"is writing the run {place.run}" in line
        assert len(line) < 300
        for reader in ("metrics", "report"):  # of a run that is being written
            assert run(place.command(reader), tmp_path / "log")[0] == 0
        evaluate = ["evaluate", *CONF, str(place.run), *POINT, "tasks=[red]", "evaluation.episodes=1",
                    "evaluation.workers=1", f"output_dir={place.evaluation}"]  # fmt: skip
        status, said = run(evaluate, tmp_path / "log")
        assert status == 0, said
    status, said = run(place.command(TRAIN), tmp_path / "log")
    assert status == 0
    assert place.hidden() == []


def test_two_streams_record_side_by_side_and_one_that_wants_the_same_waits(place, tmp_path):
    red = place.command(COLLECT)
    green = ["collect", *CONF, *POINT, *DEMONSTRATIONS, "stream.tasks=[blue,red]", f"cache_dir={place.cache}"]
    folder = place.cache / "demonstrations" / "point"

    def staging(task):
        return list(folder.glob(f".{task}-*.staged/0.npz"))

    with held([*red, "stream.tasks=[red]"], lambda: staging("red")):
        second, marker = start(*green, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: list(folder.glob("blue-*")))  # while the other is held in the middle of red
            said = ""
            while "waiting: process" not in said:
                line = second.stderr.readline()
                assert line, said
                said += line
        except BaseException:
            second.kill()
            raise
    _, rest = second.communicate(timeout=300)
    assert second.returncode == 0, said + rest
    assert "is writing the demonstrations" in said
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {"red", "blue"}
    assert alive(marker) == []


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

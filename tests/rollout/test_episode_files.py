"""Files of single episodes that an earlier process left: what is no whole episode of its task is recorded again."""

import resource
import zipfile
import zlib

import numpy as np
import pytest
from demonstrated_suite import DemonstratedSuite
from toy_suite import CAMERA, ToySuite

from vla_cl.rollout import collect as collect_module
from vla_cl.rollout.collect import collect
from vla_cl.rollout.demonstrations import Recipe, read_staged, record_episode, stage
from vla_cl.rollout.recording import RecordingSuite, piece_is_whole, piece_path, read_piece
from vla_cl.types import ConfigurationError

RED = DemonstratedSuite().tasks()[0]


@pytest.fixture
def piece(tmp_path):
    """A recorded episode of the toy suite: its file and its task."""
    environment = RecordingSuite(ToySuite(), tmp_path).make_environment(task := ToySuite().tasks()[0])
    environment.reset(1)
    while not environment.step(np.zeros(2, np.float32)).ended:
        pass
    return piece_path(tmp_path, task.id, 1), task


def rewrite(path, **changed):
    """Other arrays in an archive; None removes one, a tuple is a shape of zeros that is packed well."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files} | changed
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            if array is None:
                continue
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                if not isinstance(array, tuple):
                    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
                    continue
                header = {"descr": "<f4", "fortran_order": False, "shape": array}
                np.lib.format.write_array_header_1_0(file, header)
                for _ in range(int(np.prod(array)) * 4 // 2**24):
                    file.write(bytes(2**24))


def rows(count):
    return np.zeros((count, 2), np.float32)


ABSURD = {
    "states of 512 MiB": {"states": (2**25, 4)},
    "actions of 256 MiB": {"actions": (2**25, 2)},
    "objects": {"states": np.array([{}], object)},
    "no states": {"states": None},
    "one state": {"states": np.float32(1)},
    "fewer states": {"states": rows(1)},
    "actions without steps": {"actions": np.float32(1)},
    "more steps than the task": {"actions": rows(10_000), "states": rows(10_000)},
    "another owner": {"belongs_to": np.asarray("toy/green, initial state 1, ")},
    "owners": {"belongs_to": np.asarray(["toy/red, initial state 1, "])},
    "a success of numbers": {"success": np.arange(3)},
}

PACKED = {
    "a camera more": {"image/other": np.zeros(3, np.uint8)},
    "no ends": {f"ends/{CAMERA}": None},
    "ends that go back": {f"ends/{CAMERA}": np.arange(20)[::-1].copy()},
    "ends without pictures": {f"ends/{CAMERA}": np.zeros(0, np.int64)},
    "pictures of another size": {f"shape/{CAMERA}": np.array([2**15, 2**15, 3])},
    "pictures that are none": {f"image/{CAMERA}": np.zeros(30, np.uint8), f"ends/{CAMERA}": np.array([30])},
    "a picture of 512 MiB": {
        f"image/{CAMERA}": np.frombuffer(
            (lambda packer: b"".join([packer.compress(bytes(2**24)) for _ in range(32)] + [packer.flush()]))(
                zlib.compressobj(9)
            ),
            np.uint8,
        )
    },
}  # fmt: skip


def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("absurd", [*ABSURD, *PACKED])
def test_an_absurd_piece_is_recorded_again(piece, absurd, capsys):
    path, task = piece
    spec = ToySuite().spec
    assert piece_is_whole(path, task, 1, spec)
    changed = dict((ABSURD | PACKED)[absurd])
    if absurd == "a picture of 512 MiB":
        changed[f"ends/{CAMERA}"] = np.array([len(changed[f"image/{CAMERA}"])])
    rewrite(path, **changed)
    before = used()
    with pytest.raises(ConfigurationError) as caught:
        read_piece(path, task, 1, spec)
    assert len(str(caught.value)) <= 300
    assert not piece_is_whole(path, task, 1, spec)
    assert not path.exists()
    assert used() - before < 2**27  # it was not unpacked
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"rolling out {task.id}, initial state 1, again: ") and len(line) <= 300


@pytest.mark.parametrize("kind", ["folder", "empty", "text", "link to nothing"])
def test_what_is_no_piece_makes_place_for_one(piece, kind, capsys):
    path, task = piece
    path.unlink()
    if kind == "folder":
        (path / "inside").mkdir(parents=True)
    elif kind == "link to nothing":
        path.symlink_to(path.parent / "nowhere")
    else:
        path.write_bytes(b"" if kind == "empty" else b"not an archive" * 99)
    assert not piece_is_whole(path, task, 1, ToySuite().spec)
    assert "again" in capsys.readouterr().out
    assert not path.is_symlink() and not path.exists()
    assert not piece_is_whole(path, task, 1, ToySuite().spec)
    assert capsys.readouterr().out == ""


def staged_by(suite, folder):
    """The job of a task, with the first two of its demonstrations staged."""
    job = collect_module._Job.plan(suite, RED, folder, Recipe(3))
    environment, expert = suite.make_environment(RED), suite.make_expert(RED)
    for state in (0, 1):
        trajectory = record_episode(environment, expert, RED, state, suite.spec, Recipe(3))
        stage(job.path(state), trajectory, job.description_key)
    return job


STAGED = {**ABSURD, "no pictures": {f"image/{CAMERA}": None},
          "pictures of numbers": {f"image/{CAMERA}": np.zeros(3)}}  # fmt: skip


@pytest.mark.parametrize("absurd", STAGED)
def test_an_absurd_staged_episode_is_refused(tmp_path, absurd):
    job = staged_by(suite := DemonstratedSuite(), tmp_path)
    rewrite(job.path(1), **STAGED[absurd])
    before = used()
    with pytest.raises(ConfigurationError) as caught:
        read_staged(job.path(1), RED, suite.spec, job.description_key)
    assert len(str(caught.value)) <= 300
    assert used() - before < 2**27


def test_an_absurd_staged_episode_is_recorded_again(tmp_path, capsys):
    (expected,) = collect(suite := DemonstratedSuite(), [RED], tmp_path / "whole", episodes=3, progress=False)
    job = staged_by(suite, tmp_path / "half")
    rewrite(job.path(1), states=(2**25, 4))
    (found,) = collect(suite, [RED], tmp_path / "half", episodes=3, progress=False)
    assert "initial state 1, again" in capsys.readouterr().err
    assert (found / "MANIFEST.json").read_bytes() == (expected / "MANIFEST.json").read_bytes()

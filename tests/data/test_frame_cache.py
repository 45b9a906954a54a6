"""The cache of decoded pictures: used when it is whole, made anew when it is not, never believed."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from odd_datasets import make_dataset

from vla_cl.data import frame_cache
from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frame_cache import Pictures
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError

CAMERAS = ("observation.images.a", "observation.images.b")
EPISODES = [("lift", 20), ("lift", 21)]
TOTAL = 41


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("cached") / "data", EPISODES, cameras=CAMERAS, video=True)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks in a small entry, of which the last is not full."""
    monkeypatch.setattr(frame_cache, "BLOCK_BYTES", 4 * 48 * 64 * 3)


@pytest.fixture(scope="module")
def expected(root, tmp_path_factory):
    frames = Frames([Source(root)], tmp_path_factory.mktemp("expected"), [0])
    batch = frames.batch(np.arange(TOTAL))
    return {camera: batch[camera].numpy() for camera in CAMERAS}


def load(root, cache):
    return Frames([Source(root)], cache, [0])


def require_right(frames, expected):
    batch = frames.batch(np.arange(TOTAL))
    assert all(np.array_equal(batch[camera].numpy(), expected[camera]) for camera in CAMERAS)


def entries(cache):
    return sorted(cache.glob("*.frames"))


def flip(path, place, bit):
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << bit)]))


def mutate(cache, random, held=False):
    """Damage a cache in one of many ways; in words, how."""
    one, other = entries(cache) if random.random() < 0.5 else entries(cache)[::-1]
    size = one.stat().st_size
    kind = random.choice(
        ["flip", "flip at the end", "cut", "longer", "zeros", "swap", "copy", "remove", "empty", "folder"]
    )
    if kind == "flip":
        flip(one, int(random.integers(size)), int(random.integers(8)))
    elif kind == "flip at the end":
        flip(one, size - 1 - int(random.integers(120)), int(random.integers(8)))
    elif kind == "cut":
        os.truncate(one, int(random.integers(size)))
    elif kind == "longer":
        with one.open("ab") as file:
            file.write(bytes(int(random.integers(1, 5000))))
    elif kind == "zeros":
        with one.open("r+b") as file:
            file.seek(int(random.integers(size // 2)))
            file.write(bytes(int(random.integers(1, size // 2))))
    elif kind == "swap":
        between = one.with_suffix(".between")
        one.rename(between)
        other.rename(one)
        between.rename(other)
    elif kind == "copy":
        shutil.copyfile(other, one)
    elif kind == "remove":
        one.unlink()
    elif kind == "empty":
        one.write_bytes(b"")
    elif kind == "folder":
        shutil.rmtree(cache)
    return kind


@pytest.mark.parametrize("seed", range(60))
def test_damage_between_two_runs_is_noticed_and_made_good(root, expected, tmp_path, small_blocks, seed):
    load(root, tmp_path / "cache")
    how = mutate(tmp_path / "cache", np.random.default_rng(seed))
    require_right(load(root, tmp_path / "cache"), expected)
    assert len(entries(tmp_path / "cache")) == 2, how


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("touched", [False, True])
def test_damage_in_the_middle_of_a_run_never_ends_it(root, expected, tmp_path, small_blocks, seed, touched):
    """What was compared before is not compared again: only what cuts or replaces the file is looked for then."""
    frames = load(root, tmp_path / "cache")
    if touched:
        require_right(frames, expected)
    how = mutate(tmp_path / "cache", np.random.default_rng(1000 + seed))
    if not touched or how in ("cut", "swap", "remove", "empty", "folder", "longer"):
        require_right(frames, expected)
    else:
        frames.batch(np.arange(TOTAL))


def test_a_line_says_what_was_damaged(root, expected, tmp_path, small_blocks, capfd):
    load(root, tmp_path)
    assert "anew" not in capfd.readouterr().err
    path = entries(tmp_path)[0]
    flip(path, 5 * 4 * 48 * 64 * 3 + 7, 3)
    require_right(load(root, tmp_path), expected)
    said = [line for line in capfd.readouterr().err.splitlines() if "anew" in line]
    assert len(said) == 1 and str(path) in said[0] and "frame 20 or one after it" in said[0]


def test_only_blocks_that_are_touched_are_read(root, tmp_path, small_blocks, capfd):
    load(root, tmp_path)
    for path in entries(tmp_path):
        flip(path, 100, 0)
    frames = load(root, tmp_path)
    frames.batch(np.arange(4, 12))
    assert "anew" not in capfd.readouterr().err
    frames.batch(np.array([0]))
    assert capfd.readouterr().err.count("anew") == 2


def test_a_dataset_that_moved_or_was_copied_finds_its_pictures(root, expected, tmp_path, monkeypatch):
    load(root, tmp_path / "cache")
    moved = shutil.copytree(root, tmp_path / "elsewhere" / "under another name", copy_function=shutil.copyfile)
    monkeypatch.setattr(DatasetFolder, "images", lambda *_: pytest.fail("decoded again"))
    require_right(load(moved, tmp_path / "cache"), expected)


def test_old_entries_without_a_manifest_are_not_used(root, expected, tmp_path):
    load(root, tmp_path)
    for path in entries(tmp_path):
        shape = (TOTAL, 3, 48, 64)
        np.save(path.with_suffix(".npy"), np.zeros(shape, np.uint8))
        path.unlink()
    require_right(load(root, tmp_path), expected)


def test_two_at_once_decode_once(root, expected, tmp_path, monkeypatch):
    decoded = []
    images = DatasetFolder.images

    def counted(folder, key):
        decoded.append(key)
        yield from images(folder, key)

    monkeypatch.setattr(DatasetFolder, "images", counted)
    found = [None, None]

    def use(place):
        found[place] = load(root, tmp_path)

    threads = [threading.Thread(target=use, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(decoded) == sorted(CAMERAS)
    for frames in found:
        require_right(frames, expected)


KILLED = """
import os, sys
from pathlib import Path
from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
images = DatasetFolder.images
def dying(folder, key):
    for number, item in enumerate(images(folder, key)):
        if number == 20:
            os.kill(os.getpid(), 9)
        yield item
DatasetFolder.images = dying
Frames([Source(Path(sys.argv[1]))], Path(sys.argv[2]), [0])
"""


def test_what_a_kill_leaves_is_removed_at_the_next_start(root, expected, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(tmp_path)], capture_output=True, cwd=Path.cwd())
    assert done.returncode == -9, done.stderr
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")], "the kill left nothing to remove"
    require_right(load(root, tmp_path), expected)
    assert {path.suffix for path in tmp_path.iterdir()} == {".frames"}


def test_an_error_while_decoding_leaves_nothing(root, tmp_path, monkeypatch):
    images = DatasetFolder.images

    def failing(folder, key):
        for number, item in enumerate(images(folder, key)):
            if number == 30:
                raise ConfigurationError("damaged in the middle")
            yield item

    monkeypatch.setattr(DatasetFolder, "images", failing)
    with pytest.raises(ConfigurationError, match="in the middle"):
        load(root, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_disk_that_takes_no_more_leaves_nothing(root, tmp_path, monkeypatch, number, call):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(frame_cache.os, call, refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        load(root, tmp_path)
    assert caught.value.errno == number and caught.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_filesystem_without_reservation_still_works(root, expected, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(frame_cache.os, "posix_fallocate", unsupported)
    require_right(load(root, tmp_path), expected)


def test_a_real_limit_on_file_sizes_is_an_error_not_a_signal(root, tmp_path):
    """``ulimit -f``: what a quota does, without one."""
    code = KILLED.replace("DatasetFolder.images = dying", "")
    limit = (200_000, 200_000)
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(tmp_path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 1 and "File too large" in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".frames", ".part")]


def test_too_little_room_is_said_before_anything_is_written(root, tmp_path, monkeypatch):
    monkeypatch.setattr(frame_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(ConfigurationError, match="free some, or set cache_dir"):
        load(root, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_cache_may_be_read_only_once_it_is_made(root, expected, tmp_path, monkeypatch):
    load(root, tmp_path)
    monkeypatch.setattr(frame_cache, "only_writer", lambda *_, **__: pytest.fail("a reader asked for the lock"))
    require_right(load(root, tmp_path), expected)


def test_rows_in_any_order_give_the_same_entry(tmp_path, small_blocks):
    """The writer of blocks: what comes out of order goes to the same bytes."""
    layout = frame_cache._Layout("key", (10, 3, 48, 64))
    pictures = np.random.default_rng(0).integers(0, 255, (10, 48, 64, 3)).astype(np.uint8)
    contents = []
    for name, order in (("a", range(10)), ("b", np.random.default_rng(1).permutation(10)), ("c", range(9, -1, -1))):
        path = tmp_path / name
        with path.open("w+b") as file:
            writer = frame_cache._Writer(file.fileno(), layout)
            for row in order:
                assert writer.sums() is None
                writer.put(int(row), pictures[row])
            contents.append((writer.sums(), path.read_bytes()))
    assert contents[0] == contents[1] == contents[2]
    assert contents[0][1] == pictures.transpose(0, 3, 1, 2).tobytes()


def test_pictures_know_their_place(root, tmp_path):
    folder = DatasetFolder(root)
    pictures = Pictures(folder, CAMERAS[0], tmp_path)
    for row in (0, 19, 20, 40):
        assert np.array_equal(pictures.take(np.array([row]))[0].transpose(1, 2, 0), folder.image(CAMERAS[0], row))

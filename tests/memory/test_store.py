import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from killed_writer import content

from vla_cl.memory.store import JOURNAL, TrajectoryStore
from vla_cl.types import ConfigurationError


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_was_appended_is_there(tmp_path):
    store = TrajectoryStore(tmp_path / "memory")
    file = store.append("a", b"one")
    again = TrajectoryStore(tmp_path / "memory")
    assert dict(again.files) == {file.name: file}
    assert again.path(file.name).read_bytes() == b"one"
    again.verify([file.name])
    on_disk = sum(path.stat().st_size for path in (tmp_path / "memory").iterdir())
    assert store.bytes_on_disk() == file.bytes_on_disk == on_disk


def test_appending_rewrites_nothing(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append("a", b"one")
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    journal = (tmp_path / JOURNAL).read_bytes()
    store.append("b", b"two")
    for path, stamp in before.items():
        if path.name != JOURNAL:
            assert (path.stat().st_ino, path.stat().st_mtime_ns) == stamp
    assert (tmp_path / JOURNAL).stat().st_ino == before[tmp_path / JOURNAL][0]
    assert (tmp_path / JOURNAL).read_bytes().startswith(journal)
    assert len((tmp_path / JOURNAL).read_bytes().splitlines()) == 2


def test_the_same_again_is_kept_once(tmp_path):
    one, other = TrajectoryStore(tmp_path), TrajectoryStore(tmp_path)  # two processes that learn together
    assert one.append("a", b"one") == other.append("a", b"one") == one.append("a", b"one")
    assert len(TrajectoryStore(tmp_path)) == 1


def test_what_is_no_longer_kept_is_removed(tmp_path):
    store = TrajectoryStore(tmp_path)
    files = [store.append(name, name.encode()) for name in "abc"]
    (tmp_path / ".half-written").write_bytes(b"x")
    store.keep_only([files[1].name])
    assert contents_of(tmp_path) == {JOURNAL: files[1].line, files[1].name: b"b"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", files[1].name, JOURNAL]
    last = store.append("d", b"d")
    assert list(TrajectoryStore(tmp_path).files) == [files[1].name, last.name]


def test_a_journal_that_another_process_has_replaced_is_read_again_though_it_is_as_long(tmp_path):
    one = TrajectoryStore(tmp_path)
    first = one.append("a", b"one")
    other = TrajectoryStore(tmp_path)
    one.keep_only([])
    second = one.append("b", b"two")
    assert len(second.line) == len(first.line)
    other.remove([first.name])  # must not write the journal as it knew it
    assert list(TrajectoryStore(tmp_path).files) == [second.name]
    third = one.append("c", b"three")
    other.verify([second.name, third.name])


@pytest.mark.parametrize("content", [None, b"on"])
def test_a_file_that_is_gone_or_cut_short_is_written_again(tmp_path, content):
    store = TrajectoryStore(tmp_path)
    file = store.append("a", b"one")
    if content is None:
        store.path(file.name).unlink()
    else:
        store.path(file.name).write_bytes(content)
    assert not store.holds(file.name)
    assert store.append("a", b"one") == file
    assert store.holds(file.name)
    assert (tmp_path / JOURNAL).read_bytes() == file.line
    TrajectoryStore(tmp_path).verify([file.name])


def test_damage_is_found(tmp_path):
    store = TrajectoryStore(tmp_path)
    file = store.append("a", b"one")
    store.path(file.name).write_bytes(b"0ne")
    with pytest.raises(ConfigurationError, match="is damaged"):
        store.verify([file.name])
    store.path(file.name).unlink()
    with pytest.raises(ConfigurationError, match="lacks a-"):
        store.verify([file.name])
    (tmp_path / JOURNAL).write_bytes(b"nonsense\n" + file.line)
    with pytest.raises(ConfigurationError, match="line 1 of"):
        TrajectoryStore(tmp_path)


def test_a_journal_names_files_of_its_folder_only(tmp_path):
    file = TrajectoryStore(tmp_path / "memory").append("a", b"one")
    victim = tmp_path / "victim"
    victim.write_bytes(b"one")
    (tmp_path / "memory" / JOURNAL).write_bytes(file.line.replace(file.name.encode(), b"../victim"))
    with pytest.raises(ConfigurationError, match=r"line 1 of .* is damaged \(the file is '\.\./victim'"):
        TrajectoryStore(tmp_path / "memory").remove(["../victim"])
    assert victim.exists()


@pytest.mark.parametrize("torn", [1, 20, 80])
def test_half_a_line_counts_as_never_written(tmp_path, torn):
    store = TrajectoryStore(tmp_path)
    first, second = store.append("a", b"one"), store.append("b", b"two")
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-torn])
    again = TrajectoryStore(tmp_path)
    assert list(again.files) == [first.name]
    third = again.append("c", b"three")
    assert journal.read_bytes() == first.line + third.line
    assert again.append("b", b"two") == second
    TrajectoryStore(tmp_path).verify([first.name, second.name, third.name])


def test_a_kill_at_any_moment_loses_at_most_the_episode_being_written(tmp_path):
    generator = np.random.default_rng(int(os.environ.get("KILL_SEED", "0")))
    safe, inodes = 0, {}
    for _ in range(8):
        safe = _killed(tmp_path, safe, generator.uniform(0.0, 0.06))
        store = TrajectoryStore(tmp_path)
        numbers = sorted(int(name.split("-")[0]) for name in store.files)
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (safe, safe + 1)  # the last may be on the disk without having been reported
        store.verify(store.files)
        for name in store.files:
            assert store.path(name).read_bytes() == content(int(name.split("-")[0]))
            assert inodes.setdefault(name, store.path(name).stat().st_ino) == store.path(name).stat().st_ino
        safe = len(numbers)
    assert safe > 8


def _killed(folder: Path, start: int, after: float) -> int:
    """Run a writer, kill it some time after its first episode; how many episodes it has reported in all."""
    script = Path(__file__).with_name("killed_writer.py")
    writer = subprocess.Popen([sys.executable, str(script), str(folder), str(start)], stdout=subprocess.PIPE, text=True)
    first = writer.stdout.readline()
    time.sleep(after)
    writer.send_signal(signal.SIGKILL)
    rest = writer.communicate()[0]
    return int((first + rest).split()[-1]) + 1

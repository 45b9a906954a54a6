"""Files and folders that appear whole or not at all, what a kill leaves of them, and the lock of a writer."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults_injected import FailingCalls

from vla_cl import files
from vla_cl.files import make_folder, remove_leftovers, remove_leftovers_of, replacing, replacing_folder, set_aside
from vla_cl.storage.locks import only_writer
from vla_cl.types import ConfigurationError

HOLD = """
import sys, time
from pathlib import Path
from vla_cl.storage.locks import only_writer
with only_writer(Path(sys.argv[1]), "the run x"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_writer(tmp_path):
    """A process that holds the lock ``tmp_path/run/.lock`` until it is told to go."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run" / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def put(folder, content):
    with replacing_folder(folder) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a.txt").write_text(content)


def content(folder):
    return (folder / "deep" / "a.txt").read_text()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for text in ("old", "new"):
        put(tmp_path / "f", text)
        assert content(tmp_path / "f") == text
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


KILLED = """
import os, sys
from pathlib import Path
from vla_cl import files
if sys.argv[2] == "renames":
    files._exchange = lambda one, other: False
rename, left = Path.rename, [int(sys.argv[3])]
def dying(self, target):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), 9)
    return rename(self, target)
Path.rename = dying
with files.replacing_folder(Path(sys.argv[1])) as temporary:
    (temporary / "deep").mkdir()
    (temporary / "deep" / "a.txt").write_text("new")
    if sys.argv[2] == "body":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("where", "renames"), [("body", 0), ("renames", 0), ("renames", 1)])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_folder(tmp_path, where, renames):
    put(tmp_path / "f", "old")
    process = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "f", where, str(renames)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".*"))
    if renames == 1:
        assert not (tmp_path / "f").exists()  # the moment between two renames
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert content(tmp_path / "f") == "old"


def test_leftovers_of_one_folder_only(tmp_path):
    digits = "0" * 32
    for name in ("a", "b", "a.b"):
        (tmp_path / f".{name}.{digits}").mkdir()
    (tmp_path / f".a.{digits}.old").mkdir()
    remove_leftovers_of(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a", f".b.{digits}", f".a.b.{digits}"}


@pytest.mark.parametrize("alone", [True, False])
def test_what_is_being_written_and_what_is_not_ours_stays(tmp_path, alone):
    others = [".hidden", ".git", ".0123.json", ".damaged.0123", "f.txt", f".{'g' * 32}.json"]
    for name in others:
        (tmp_path / name).write_text("precious")
    (tmp_path / f".{'1' * 32}.json").symlink_to(tmp_path / "f.txt")
    (tmp_path / f".{'0' * 32}.json").write_text("half")
    (tmp_path / f".x.{'0' * 32}").mkdir()
    with replacing(tmp_path / "file.json") as file, replacing_folder(tmp_path / "folder") as folder:
        file.write_text("being written")
        remove_leftovers(tmp_path, alone)
        assert file.exists() and folder.exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*others, f".{'1' * 32}.json", "file.json", "folder"}


@pytest.mark.parametrize("alone", [True, False])
def test_where_nothing_can_be_locked_leftovers_go_only_if_nobody_else_writes(tmp_path, monkeypatch, alone):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    put(tmp_path / "f", "new")
    (tmp_path / f".f.{'0' * 32}").mkdir()
    remove_leftovers(tmp_path, alone)
    assert (tmp_path / f".f.{'0' * 32}").exists() is not alone


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("before", [True, False])
def test_whichever_call_fails_the_old_or_the_new_is_there(tmp_path, monkeypatch, kind, error, before):
    def write(text):
        if kind == "file":
            files.write_text(tmp_path / "d" / "f", text)
        else:
            put(tmp_path / "d" / "f", text)

    def read():
        path = tmp_path / "d" / "f"
        return None if not path.exists() else path.read_text() if kind == "file" else content(path)

    if before:
        write("old")
    number, fails = 0, 0
    while True:
        with FailingCalls(monkeypatch, number, error) as calls:
            try:
                write("new")
            except OSError as failure:
                assert failure.errno == error
        if not calls.failed:
            break
        fails += 1
        assert read() in (("old", "new") if before else (None, "new"))
        remove_leftovers(tmp_path / "d", alone=True)
        assert [path.name for path in (tmp_path / "d").glob(".*")] == []
        if read() == "new":
            write("old") if before else subprocess.run(["rm", "-r", tmp_path / "d"], check=True)
        number += 1
    assert fails > 5
    assert read() == "new"


def test_every_new_folder_is_flushed_where_it_is_entered(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "flush", flushed.append)
    make_folder(tmp_path / "a" / "b" / "c")
    assert set(flushed) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}


def test_damaged_things_set_aside_do_not_meet(tmp_path):
    for expected in (".d.damaged", ".d.damaged-2"):
        (tmp_path / "d").mkdir()
        assert set_aside(tmp_path / "d").name == expected


def test_the_second_writer_is_told_who_the_first_is(tmp_path, other_writer):
    lock = tmp_path / "run" / ".lock"
    with pytest.raises(ConfigurationError) as caught, only_writer(lock, "the run x"):
        pass
    message = str(caught.value)
    assert message.startswith(f"process {other_writer.pid} (since ")
    assert "is writing the run x" in message
    assert len(message) < 300
    other_writer.communicate("")
    with only_writer(lock, "the run x"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_lock_is_free_when_its_process_has_ended_however(tmp_path, other_writer, how):
    other_writer.send_signal(how)
    other_writer.wait()
    assert (tmp_path / "run" / ".lock.owner").exists()
    with only_writer(tmp_path / "run" / ".lock", "the run x"):
        note = json.loads((tmp_path / "run" / ".lock.owner").read_text())
        assert note["pid"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    "note",
    ["", "{", "[]", "{}", '{"pid": "x"}', '{"pid": 1e400}',
     '{"pid": 1, "host": 3, "since": "\\u001b[2J", "started": 0}',
     '{"pid": 999999999, "host": "HOST", "since": "", "started": 1}', "x" * 10_000],
)  # fmt: skip
def test_a_stale_or_damaged_note_names_nobody(tmp_path, other_writer, note):
    import socket

    (tmp_path / "run" / ".lock.owner").write_text(note.replace("HOST", socket.gethostname()))
    lock = tmp_path / "run" / ".lock"
    with (
        pytest.raises(ConfigurationError, match=r"process.* is writing the run x") as caught,
        only_writer(lock, "the run x"),
    ):
        pass
    assert "\x1b" not in str(caught.value)
    assert "999999999" not in str(caught.value)


def test_another_host_is_named(tmp_path, other_writer):
    note = {"pid": 7, "host": "node42", "since": "2026-01-01", "started": 1.0}
    (tmp_path / "run" / ".lock.owner").write_text(json.dumps(note))
    with pytest.raises(ConfigurationError, match="process 7 on node42"), only_writer(tmp_path / "run" / ".lock", "x"):
        pass


def test_the_same_process_twice_is_told_so(tmp_path):
    lock = tmp_path / "l"
    refused = pytest.raises(ConfigurationError, match="this process itself")
    with only_writer(lock, "the run x"), refused, only_writer(lock, "the run x"):
        pass


def test_waiting_says_for_whom_and_ends_with_the_other(tmp_path, other_writer, capsys):
    with pytest.raises(ConfigurationError), only_writer(tmp_path / "run" / ".lock", "the run x", wait=0.2):
        pass
    assert f"waiting: process {other_writer.pid}" in capsys.readouterr().err
    other_writer.kill()
    with only_writer(tmp_path / "run" / ".lock", "the run x", wait=-1):
        pass


def test_children_do_not_inherit_a_lock(tmp_path):
    with only_writer(tmp_path / "l", "x"):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        with only_writer(tmp_path / "l", "x"):
            pass
    finally:
        child.communicate()


def test_on_a_filesystem_without_locks_a_file_stands_for_one(tmp_path):
    script = (
        "import errno, fcntl, os, sys\n"
        "def no_locks(*_): raise OSError(errno.ENOSYS, 'Function not implemented')\n"
        "fcntl.flock = no_locks\n" + HOLD
    )
    command = [sys.executable, "-W", "error", "-c", script, tmp_path / "l"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        second = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert "is writing the run x" in second.stderr
        first.kill()
    third = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert third.stdout == "held\n", third.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), only_writer(tmp_path / "file" / ".lock", "x"):
        pass
    with pytest.raises(OSError), only_writer(Path("/sys/kernel/.lock"), "x"):
        pass


KILLED_AT_ITS_NOTE = """
import os, signal, sys
from pathlib import Path
from vla_cl.storage.locks import only_writer

kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "half written":
    Path.write_text = lambda self, text, **_: (open(self, "w").write(text[:9]), kill())
else:
    os.replace = Path.replace = os.rename = Path.write_text = kill
with only_writer(Path(sys.argv[1]) / ".lock", "the run"):
    pass
"""


@pytest.mark.parametrize("moment", ["half written", "before it"])
def test_a_kill_while_the_note_of_a_lock_is_written_leaves_nothing_for_ever(tmp_path, moment):
    done = subprocess.run([sys.executable, "-c", KILLED_AT_ITS_NOTE, str(tmp_path), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    with only_writer(tmp_path / ".lock", "the run"):
        pass
    assert list(tmp_path.iterdir()) == []

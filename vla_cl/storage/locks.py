"""One writer per run folder, dataset and cache entry. Readers never ask for a lock, so they never wait.

A lock is a file, held by the operating system (``flock``, through ``filelock``), so it is free as soon as its process
ends, however it ends; it is not inherited by child processes. On a filesystem without ``flock`` (some of Lustre)
``filelock`` falls back to a file that exists while it is held, and takes over one whose process on this host is gone.
The note beside it says who holds it, only for the message to the second writer.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from vla_cl.files import make_folder
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

_NOTE_BYTES = 4096


@contextmanager
def only_writer(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` while the body runs; then it is removed.

    Args:
        path: The lock file, with a name of its own; its folder is made.
        what: What is being written, for the message: ``the run outputs/er``.
        wait: Seconds to wait for the other writer; -1 waits without end. A line on stderr says for whom.

    Raises:
        ConfigurationError: Another process writes; the message names it.
        OSError: The folder cannot be written.
    """
    make_folder(path.parent)
    note = path.with_name(f"{path.name}.owner")
    lock = FileLock(path, thread_local=False)  # a writer may be told in one thread and finish in another
    if not _acquired(lock, 0):
        if wait:
            print(f"waiting: {_owner(note)} is writing {what}", file=sys.stderr, flush=True)
        if not wait or not _acquired(lock, wait):
            raise ConfigurationError(f"{_owner(note)} is writing {what}; wait for it, stop it, or give another folder")
    try:
        # in place: whoever reads half of it says "another process", and a kill leaves no file of a name nobody knows
        note.write_text(json.dumps(_about(os.getpid())), encoding="utf-8")
        yield
    finally:
        try:
            note.unlink(missing_ok=True)
            path.unlink(missing_ok=True)  # whoever waits for it sees that it has no name any more, and makes a new one
        finally:
            lock.release()


def remove_stale(path: Path) -> None:
    """Remove a lock file that a killed process has left beside work that is finished, so that nobody takes it again."""
    if path.exists() and os.access(path.parent, os.W_OK):
        with suppress(ConfigurationError), only_writer(path, ""):  # somebody may be at it after all
            pass


def _acquired(lock: FileLock, seconds: float) -> bool:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flock not supported")  # the fallback is what we want
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            return False
    return True


def _about(pid: int) -> dict[str, object]:
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "started": psutil.Process(pid).create_time(),
    }


def _owner(note: Path) -> str:
    """Who wrote the note, in words. It may be gone, or be left by a process that has been killed."""
    with suppress(ConfigurationError, KeyError, TypeError, ValueError, OverflowError):
        about = read_json_object(note, "the note of a lock", "", _NOTE_BYTES)
        pid, host, since = int(about["pid"]), str(about["host"]), harmless(str(about["since"]), 20)
        if host != socket.gethostname():
            return f"process {pid} on {harmless(host, 60)} (since {since})"
        if pid == os.getpid():
            return f"this process itself (since {since})"
        with suppress(psutil.Error):
            if psutil.Process(pid).create_time() == float(about["started"]):
                return f"process {pid} (since {since})"
    return "another process"

"""One writer per run folder, dataset and cache entry. Readers never ask for a lock, so they never wait.

A lock is a file beside what it protects, held by the operating system (``filelock``), so it is free as soon as its
process ends, however it ends. What the file says is only for the message to the second writer.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vla_cl.types import ConfigurationError

_NOTE_BYTES = 4096


@contextmanager
def only_writer(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` while the body runs.

    Args:
        path: The lock file; its folder is made. It stays behind, empty of meaning.
        what: What is being written, for the message: ``the run outputs/er``.
        wait: Seconds to wait for the other writer; -1 waits without end.

    Raises:
        ConfigurationError: Another process writes; the message names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=wait)
    note = path.with_name(f"{path.name}.owner")
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigurationError(
            f"another process is writing {what} ({_owner(note)}); wait for it or stop it, or choose another output_dir"
        ) from error
    try:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        note.write_text(json.dumps(about), encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _owner(note: Path) -> str:
    """Who wrote the note, in words; it may be gone or half written, since it is not what holds the lock."""
    try:
        with note.open(encoding="utf-8") as file:
            about = json.loads(file.read(_NOTE_BYTES))
        return f"process {int(about['pid'])} on {about['host']!s:.60}, since {about['since']!s:.20}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it left no note"

"""Remembered units on disk: a file for each, and a journal that names them all.

A unit's file is written beside its place, flushed and renamed; then a line with its size and SHA-256 is added to the
journal. Nothing that is there is ever touched by that. A kill leaves at most a file that the journal does not name,
or half a line at its end; both count as never written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vla_cl.files import flush, make_folder, replacing
from vla_cl.trust.paths import inside
from vla_cl.trust.reading import LINES_BYTES, parse_json_object, require_entries
from vla_cl.trust.text import harmless, reason, short
from vla_cl.types import ConfigurationError

JOURNAL = "journal.jsonl"
_LOCK = ".lock"
_HASH_DIGITS_IN_NAME = 12


@dataclass(frozen=True)
class StoredFile:
    """A line of the journal.

    Attributes:
        name: Of the file, which ends in the first digits of its hash.
        size: In bytes.
        sha256: Of its content.
    """

    name: str
    size: int
    sha256: str

    @property
    def line(self) -> bytes:
        """The journal's line."""
        content = {"file": self.name, "bytes": self.size, "sha256": self.sha256}
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"

    @property
    def bytes_on_disk(self) -> int:
        """Of the file and of its line."""
        return self.size + len(self.line)


class TrajectoryStore:
    """Files of remembered units in a folder.

    Args:
        folder: Made at the first `append`.

    Raises:
        ConfigurationError: A line of the journal that is not the last is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, StoredFile] = {}
        self._known: tuple[int, ...] = (-1,)
        self._look()

    def __len__(self) -> int:
        """Number of files in the journal."""
        return len(self._files)

    @property
    def files(self) -> Mapping[str, StoredFile]:
        """Name to line of the journal, in the order in which they were added."""
        return self._files

    def bytes_on_disk(self) -> int:
        """Of every file that the journal names and of the journal, by the system's account."""
        names = [JOURNAL, *self._files]
        return sum((self.folder / name).stat().st_size for name in names if (self.folder / name).is_file())

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.folder / name

    @staticmethod
    def plan(label: str, content: bytes) -> StoredFile:
        """What `append` would add, without writing: how much room it needs."""
        digest = hashlib.sha256(content).hexdigest()
        return StoredFile(f"{label}-{digest[:_HASH_DIGITS_IN_NAME]}", len(content), digest)

    def append(self, label: str, content: bytes) -> StoredFile:
        """Add a file; it is on the disk when this returns. What is there already is not written again.

        Args:
            label: What its name begins with.
            content: All of it.
        """
        file = self.plan(label, content)
        make_folder(self.folder)
        with self._locked():
            self._look()
            if self.holds(file.name):
                return file
            with replacing(self.path(file.name)) as temporary:
                temporary.write_bytes(content)
            if file.name not in self._files:
                self._add_line(file)
                self._files[file.name] = file
                self._known = self._stamp()
        return file

    def holds(self, name: str) -> bool:
        """Whether a file is there, as long as the journal says; `verify` looks at its content."""
        self._look()
        file, path = self._files.get(name), self.path(name)
        return file is not None and path.is_file() and path.stat().st_size == file.size

    def keep_only(self, names: Collection[str]) -> None:
        """Remove every other file, and what a kill left half written; the journal is replaced by a shorter one."""
        if not self.folder.is_dir():
            return
        with self._locked():
            self._look()
            self._shorten_journal([name for name in self._files if name not in names])
            for path in self.folder.iterdir():
                if path.name not in (*self._files, JOURNAL, _LOCK):
                    path.unlink(missing_ok=True)

    def remove(self, names: Collection[str]) -> None:
        """Remove these files; the journal is replaced by a shorter one. Those that are gone already may be named."""
        if not names:
            return
        with self._locked():
            self._look()
            self._shorten_journal(names)
            for name in names:
                self.path(name).unlink(missing_ok=True)

    def verify(self, names: Collection[str]) -> None:
        """Compare files with the journal.

        Raises:
            ConfigurationError: One is missing, not in the journal, or changed.
        """
        self._look()
        for name in names:
            path, expected = self.path(name), self._files.get(name)
            if expected is None or not path.is_file():
                raise ConfigurationError(
                    f"the memory in {short(self.folder)} lacks {harmless(name, 60)}; use another checkpoint of the run"
                )
            content = path.read_bytes()
            if len(content) != expected.size or hashlib.sha256(content).hexdigest() != expected.sha256:
                raise ConfigurationError(
                    f"{short(path)} is damaged: it differs from the journal beside it; copy it again, or delete it "
                    "if the data are there: a resumed run makes it anew"
                )

    def _shorten_journal(self, without: Collection[str]) -> None:
        """Before the files are removed: a kill in between leaves files that the journal does not name."""
        kept = {name: file for name, file in self._files.items() if name not in without}
        if len(kept) < len(self._files):
            with replacing(self.folder / JOURNAL) as temporary:
                temporary.write_bytes(b"".join(file.line for file in kept.values()))
            self._files, self._known = kept, self._stamp()

    def _look(self) -> None:
        """Read the journal, unless it is as this process left it."""
        stamp = self._stamp()
        if stamp != self._known:
            self._files = {file.name: file for file in _lines(self.folder / JOURNAL)}
            self._known = stamp

    def _stamp(self) -> tuple[int, ...]:
        """What changes with the journal; another process may replace it by one of the same length."""
        journal = self.folder / JOURNAL
        if not journal.is_file():
            return ()
        found = journal.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _add_line(self, file: StoredFile) -> None:
        journal = self.folder / JOURNAL
        handle = os.open(journal, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
            if size and os.pread(handle, 1, size - 1) != b"\n":  # half a line that a kill has left
                os.ftruncate(handle, len(_whole_lines(journal)))
                os.lseek(handle, 0, os.SEEK_END)
            rest = memoryview(file.line)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        flush(self.folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # the system frees it however the process ends
            yield
        finally:
            os.close(handle)


def _whole_lines(journal: Path) -> bytes:
    if journal.is_file() and journal.stat().st_size > LINES_BYTES:
        raise ConfigurationError(f"{short(journal)} is larger than {LINES_BYTES} bytes; restore it")
    content = journal.read_bytes() if journal.is_file() else b""
    return content[: content.rfind(b"\n") + 1]


def _lines(journal: Path) -> Iterator[StoredFile]:
    for number, line in enumerate(_whole_lines(journal).splitlines(), start=1):
        try:
            row = parse_json_object(line, "it", "restore it")
            require_entries(row, {"file": str, "bytes": int, "sha256": str}, "it", "restore it")
            inside(journal.parent, row["file"], "the file")
            if "/" in row["file"] or row["file"] in (JOURNAL, _LOCK, "."):
                raise ConfigurationError(f"{harmless(row['file'], 40)!r} is no name of a unit")
            yield StoredFile(row["file"], row["bytes"], row["sha256"])
        except ConfigurationError as error:
            raise ConfigurationError(
                f"line {number} of {short(journal)} is damaged ({reason(error)}); restore it"
            ) from error

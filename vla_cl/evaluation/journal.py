"""The trials of one evaluation within a run, written down as they are made, so that a kill loses none of them.

A run has one file for each evaluation since its last checkpoint. The first line says which evaluation it is, the hash
of the weights among it; each further line is a trial and which evaluator made it. Each line has a seal. A kill can only
tear the last line; it is dropped. What is damaged is made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from vla_cl.scores import Trial
from vla_cl.storage.manifest import SEAL, require_seal, seal
from vla_cl.trust.reading import LINES_BYTES, parse_json_object, require_entries
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError

JOURNALS = "scoring"
"""The folder of the journals within a run's folder; a checkpoint makes them needless."""

_ENTRIES: dict[str, type | tuple[type, ...]] = {
    "evaluator": int, "task": str, "unit": int, "status": str, "values": dict, "columns": dict,
    "seconds": (int, float), "error": (str, type(None)),
}  # fmt: skip


class TrialJournal:
    """The trials of one evaluation, by evaluator, task and unit.

    Args:
        path: The file.
        which: All that decides the trials, as plain data: another evaluation's are not taken.
    """

    def __init__(self, path: Path, which: Mapping[str, Any]) -> None:
        self._path = path
        self._head, self._salt = _head(which)
        self._found: dict[int, dict[tuple[str, int], Trial]] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Read what there is of this evaluation; anything else is overwritten."""
        self._path.parent.mkdir(exist_ok=True)
        whole = self._read()
        self._file = cast(BinaryIO, self._path.open("r+b" if whole else "wb", buffering=0))
        if whole:
            self._file.truncate(whole)
            self._file.seek(whole)
        else:
            _write_all(self._file, self._head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """The file stays: until a checkpoint is written, nothing else on the disk may have these trials."""
        assert self._file is not None
        self._file.close()

    def known(self, evaluator: int) -> Mapping[tuple[str, int], Trial]:
        """Task and unit to trial, of those that an evaluator has made."""
        return self._found.get(evaluator, {})

    def append(self, evaluator: int, trial: Trial) -> None:
        """Write a trial down; the process may be killed from now on."""
        assert self._file is not None, "enter the journal first"
        content = {
            "evaluator": evaluator,
            "task": trial.task,
            "unit": trial.unit,
            "status": trial.status,
            "values": dict(trial.values),
            "columns": dict(trial.columns),
            "seconds": trial.seconds,
            "error": trial.error,
        }
        _write_all(self._file, _line(content, self._salt))
        self._found.setdefault(evaluator, {})[trial.task, trial.unit] = trial

    def _read(self) -> int:
        """Take the trials of this evaluation; the bytes up to the end of the last whole line, 0 for another one's."""
        if not self._path.is_file() or self._path.stat().st_size > LINES_BYTES:
            return 0
        content = self._path.read_bytes()
        if not content.startswith(self._head):
            return 0
        end = len(self._head)
        for line in content[end:].splitlines(keepends=True):
            trial = _trial(line, self._salt) if line.endswith(b"\n") else None
            if trial is None:
                break  # torn, or damaged: from here on it is made again
            evaluator, made = trial
            self._found.setdefault(evaluator, {})[made.task, made.unit] = made
            end += len(line)
        return end


def require_whole(path: Path, which: Mapping[str, Any], remedy: str) -> None:
    """Refuse a journal of which `TrialJournal` would drop more than a torn last line: no person answers twice.

    Raises:
        ConfigurationError: It is of something else, or a line is damaged.
    """
    if not path.is_file():
        return
    head, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    expected, salt = _head(which)
    torn = bool(lines) and not lines[-1].endswith(b"\n")
    whole = lines[:-1] if torn else lines
    if head != expected and (lines or head.endswith(b"\n")):
        raise ConfigurationError(f"{short(path)} does not belong to its plan; {remedy}")
    for number, line in enumerate(whole, start=2):
        if _trial(line, salt) is None:
            raise ConfigurationError(f"line {number} of {short(path)} is damaged; {remedy}")


def _head(which: Mapping[str, Any]) -> tuple[bytes, str]:
    """The first line, and its seal, which the seals of the other lines rest on."""
    return _line(which, ""), str(seal(which)[SEAL])


def _line(content: Mapping[str, Any], salt: str) -> bytes:
    return json.dumps(seal(content, salt), sort_keys=True).encode() + b"\n"


def _trial(line: bytes, salt: str) -> tuple[int, Trial] | None:
    """A line's evaluator and trial; None if it is not as it was written."""
    try:
        row = parse_json_object(line, "the journal of an evaluation", "it is made again")
        require_seal(row, "the line", "it is made again", salt)
        require_entries(row, _ENTRIES, "the line", "it is made again")
    except ConfigurationError:
        return None
    numbers = all(isinstance(value, int | float) for value in row["values"].values())
    if SEAL not in row or not numbers or row["status"] not in ("ok", "error"):
        return None
    return row["evaluator"], Trial(
        row["task"],
        row["unit"],
        row["status"],
        {name: float(value) for name, value in row["values"].items()},
        row["columns"],
        float(row["seconds"]),
        row["error"],
    )


def _write_all(file: BinaryIO, content: bytes) -> None:
    """An unbuffered write may take only a part, as when the disk fills up; the next one then says why."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]

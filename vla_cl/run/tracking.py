"""Figures over the course of a run: ``metrics.jsonl`` always, and any tracker that accelerate knows, by name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TextIO

from vla_cl.files import make_folder, replacing, set_aside
from vla_cl.storage.manifest import SEAL, require_seal, seal
from vla_cl.trust.reading import last_lines, parse_json_object
from vla_cl.trust.text import reason, short
from vla_cl.types import ConfigurationError

TRACKERS = ("tensorboard", "wandb", "trackio", "aim", "comet_ml", "mlflow", "clearml", "swanlab")

LOG = "metrics.jsonl"

RECORD_BYTES = 2**16
"""Longest line of the log; a record of this program has some hundred bytes."""

_PIECE = 2**20

_DAMAGED_LINES = 100_000
"""A log whose last lines are damaged, so many of them, is not searched further."""


class Tracker:
    """Writes each record to ``metrics.jsonl`` and to the trackers asked for; a context manager.

    Args:
        folder: The run's folder.
        trackers: Names among `TRACKERS`; their packages must be installed.
        project: The name that the trackers show.
        settings: The run's settings, for the trackers.

    Raises:
        ConfigurationError: A tracker is unknown or not installed.
    """

    def __init__(
        self,
        folder: Path,
        trackers: Sequence[str] = (),
        project: str = "vla-cl",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_trackers(trackers)
        make_folder(folder)
        self._others = _start(folder, trackers, project, settings or {})
        self._path = folder / LOG
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        """The tracker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and finish the trackers."""
        if self._file is not None:
            self._file.close()
        for other in self._others:
            other.finish()

    def continue_after(self, step: int) -> tuple[str, ...]:
        """Forget what an earlier process logged beyond this step, for it is learnt again, and half a last line.

        Damaged lines stay, for the report to count them. What is no log of a run is set aside, and one begins anew:
        a training never fails because of what it holds.

        Returns:
            A sentence for what was set aside; it is printed, too.

        Raises:
            OSError: The disk is full or failing.
        """
        if not os.path.lexists(self._path):
            return ()
        try:
            if self._path.is_symlink() or not self._path.is_file():
                raise ConfigurationError("it is no file")
            self._cut(step)
        except ConfigurationError as error:
            note = f"passing over {short(self._path)} ({reason(error)}): kept as {set_aside(self._path).name}"
            print(note)
            return (note,)
        return ()

    def _cut(self, step: int) -> None:
        """Rewrite the log, if there is anything in it that goes."""
        size = before = self._path.stat().st_size
        ended = _ends_with_a_line(self._path)
        kept: list[tuple[int, int]] = []
        damaged = 0
        for begin, line in last_lines(self._path, RECORD_BYTES):
            record = None if line is None else read_record(line)
            half = before == size and not ended
            if record is not None and SEAL in record and record["step"] <= step and not half:
                kept.append((0, before))  # steps ascend, so what lies before it stays
                break
            if not half and (record is None or record["step"] <= step):
                kept.append((begin, before))
            damaged += record is None
            before = begin
            if damaged > _DAMAGED_LINES:
                raise ConfigurationError(f"its last {_DAMAGED_LINES} lines are damaged")
        if sum(stop - start for start, stop in kept) == size:
            return
        with replacing(self._path) as temporary, self._path.open("rb") as source, temporary.open("wb") as target:
            for start, stop in reversed(kept):
                source.seek(start)
                _copy(source, target, stop - start)

    def log(self, step: int, **figures: float | int | str) -> None:
        """Record figures at an optimizer step of the stream."""
        if self._file is None:
            self._file = self._path.open("a", buffering=1)  # a line is on its way as soon as it is written
        self._file.write(json.dumps(seal({"time": time.time(), "step": step, **figures})) + "\n")
        for other in self._others:
            other.log({key: value for key, value in figures.items() if not isinstance(value, str)}, step=step)

    def flush(self) -> None:
        """Have every record on the disk when this returns."""
        if self._file is not None:
            os.fsync(self._file.fileno())


def read_record(line: bytes) -> dict[str, Any] | None:
    """The record of a line of the log; None where the line is damaged or holds something else.

    A record of an earlier version has no seal.
    """
    try:
        record = parse_json_object(line, "a line of the log", "")
        require_seal(record, "a line of the log", "")
    except ConfigurationError:  # the caller counts it
        return None
    return record if _is_number(record.get("step")) else None


def last_loss(folder: Path, tail: int = RECORD_BYTES) -> tuple[float | None, int]:
    """The loss of the last undamaged record of a run's log, and how many damaged lines come after it.

    Args:
        folder: The run's.
        tail: Bytes at the end of the log in which it is looked for.

    Raises:
        OSError: The log cannot be read.
    """
    path, damaged = folder / LOG, 0
    if not path.is_file():
        return None, 0
    for _, line in last_lines(path, RECORD_BYTES, tail):
        record = None if line is None else read_record(line)
        if record is None or SEAL not in record:
            damaged += 1
        elif _is_number(record.get("loss")):
            return float(record["loss"]), damaged
    return None, damaged or int(path.stat().st_size > tail)  # a tail without a line is part of one too long


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() in (b"", b"\n")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    """So many bytes, in pieces."""
    while count > 0 and (piece := source.read(min(count, _PIECE))):
        target.write(piece)
        count -= len(piece)


def check_trackers(trackers: Sequence[str]) -> None:
    """Refuse a tracker that does not exist here.

    Raises:
        ConfigurationError: A name is unknown, its package is not installed, or wandb has no account.
    """
    for name in trackers:
        if name not in TRACKERS:
            raise ConfigurationError(f"unknown tracker {name!r}; allowed: {', '.join(TRACKERS)}")
    if not trackers:
        return
    from accelerate.tracking import get_available_trackers

    available = {str(name) for name in get_available_trackers()}
    for name in trackers:
        if name not in available:
            raise ConfigurationError(
                f"tracker {name!r} is not installed; `pip install {name}`, or choose of {sorted(available) or 'none'}"
            )
    if "wandb" in trackers:
        _require_account()


def _require_account() -> None:
    """Ask wandb whether it knows whose runs these are; on a terminal it asks the user.

    Raises:
        ConfigurationError: It does not.
    """
    import wandb

    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise ConfigurationError(
            f"tracking.trackers=[wandb] needs an account ({reason(error)}); type `wandb login`, or set WANDB_API_KEY, "
            "or WANDB_MODE=offline to keep the figures on this machine"
        ) from error


def _start(folder: Path, trackers: Sequence[str], project: str, settings: Mapping[str, Any]) -> list[Any]:
    if not trackers:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(name) for name in get_available_trackers()}
    started = []
    for name in trackers:
        if name not in available:
            raise ConfigurationError(
                f"tracker {name!r} is not installed; `pip install {name}`, or choose of {sorted(available) or 'none'}"
            )
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(project, logging_dir=str(folder)) if kind.requires_logging_directory else kind(project)
        tracker.start()
        tracker.store_init_configuration(_flat(settings))
        started.append(tracker)
    return started


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str | bool]:
    """Nested settings as dotted names with plain values, which is all that every tracker takes."""
    result: dict[str, int | float | str | bool] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= _flat(value, f"{name}.")
        else:
            result[name] = value if isinstance(value, int | float | str | bool) else str(value)
    return result

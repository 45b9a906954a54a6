"""Figures over the course of a run: ``metrics.jsonl`` always, and any tracker that accelerate knows, by name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from vla_cl.files import make_folder, replacing
from vla_cl.manifest import seal
from vla_cl.types import ConfigurationError

TRACKERS = ("tensorboard", "wandb", "trackio", "aim", "comet_ml", "mlflow", "clearml", "swanlab")


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
        self._path = folder / "metrics.jsonl"
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

    def continue_after(self, step: int) -> None:
        """Forget what an earlier process logged beyond this step, for it is learnt again, and half a last line."""
        content = self._path.read_bytes() if self._path.is_file() else b""
        lines = content.splitlines(keepends=True)
        kept = b"".join(line for line in lines if line.endswith(b"\n") and not _is_beyond(line, step))
        if kept != content:
            with replacing(self._path) as temporary:
                temporary.write_bytes(kept)

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


def _is_beyond(line: bytes, step: int) -> bool:
    """Whether a line is of a later step; what is not a record is not ours to judge, and stays."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    found = record.get("step") if isinstance(record, dict) else None
    return isinstance(found, int | float) and found > step


def check_trackers(trackers: Sequence[str]) -> None:
    """Refuse a tracker that does not exist here.

    Raises:
        ConfigurationError: A name is unknown, or its package is not installed.
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

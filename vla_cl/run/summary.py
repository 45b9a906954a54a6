"""What ``run.json`` says of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vla_cl.interfaces import Method, Model
from vla_cl.run.checkpoint import Progress
from vla_cl.run.folder import machine, versions
from vla_cl.storage.manifest import RUN_FORMAT
from vla_cl.types import Stream


@dataclass(frozen=True)
class Identity:
    """What a run is called in its ``run.json``."""

    name: str
    method: str
    arrangement: str


def described(stream: Stream, evaluated: Sequence[str], why_nothing: str | None) -> dict[str, Any]:
    """What is learnt, in which order, and which of it is evaluated.

    Args:
        stream: All of it.
        evaluated: Ids of the tasks that are.
        why_nothing: Why none is, if none is.
    """
    return {
        "format": RUN_FORMAT,
        "stream": stream.name,
        "tasks": [{"id": task.id, "instruction": task.instruction} for task in stream.tasks],
        "experiences": [
            {"name": experience.name, "tasks": [task.id for task in experience.tasks]} for experience in stream
        ],
        "rollouts": {"tasks": sorted(evaluated), "skipped": why_nothing},
    }


def measured(model: Model, method: Method, progress: Progress, experiences: int) -> dict[str, Any]:
    """How far the run is, on what, and what it took.

    Args:
        model: As it is now.
        method: As it is now.
        progress: How far.
        experiences: Of the stream.
    """
    spent = progress.train_seconds, progress.evaluate_seconds
    seconds = dict(zip(("train", "evaluate", "total"), (*spent, sum(spent)), strict=True))
    return {
        "status": "finished" if progress.experiences_done == experiences else "running",
        "versions": versions(),
        "machine": machine(str(model.device)),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "told_the_task": method.task_id_at_test,
        "memory_bytes": method.memory_bytes(),
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
        "steps": progress.step,
    }

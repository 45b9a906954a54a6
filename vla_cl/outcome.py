"""What ``vla-cl train`` says at the end: how well it went, how long it took, and where the report lies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_cl.metrics import Estimate, compute_all, load_matrix
from vla_cl.report import write_report
from vla_cl.trust.reading import read_json_object
from vla_cl.types import ConfigurationError

_SHOWN = (("final_average_success", "success at the end"), ("chaudhry_forgetting", "forgetting"))
_TAIL = 2**16
"""Bytes at the end of ``metrics.jsonl`` in which the last loss is looked for."""


def describe_outcome(run: Path) -> str:
    """A few lines about a run that has just finished; its report is written.

    Args:
        run: The run's folder.

    Raises:
        ConfigurationError: A file of the run is damaged.
    """
    summary = read_json_object(run / "run.json", "the summary of the run", "train it again")
    learnt = len(summary["experiences"])
    seconds = summary["seconds"]
    lines = [
        f"{summary['name']}: learnt {learnt} experience{'s' * (learnt != 1)} with {summary['method']} in "
        f"{seconds['total']:.0f} s (training {seconds['train']:.0f} s, rollouts {seconds['evaluate']:.0f} s)",
        *_results(run),
    ]
    try:
        lines.append(f"report: {write_report([run])}")
    except ConfigurationError as error:
        lines.append(f"report: none ({error})")
    return "\n".join([*lines, f"done: {run}"])


def _results(run: Path) -> list[str]:
    if (run / "matrix.json").is_file():
        matrix = load_matrix(run)
        found = compute_all(matrix)
        lines = [_figure(found, *shown, f"{len(matrix.tasks)} tasks") for shown in _SHOWN]
        if any(lines):
            return [line for line in lines if line]
    loss = _last_loss(run / "metrics.jsonl")
    return [f"nothing was rolled out; the last loss is {loss:.3g}" if loss is not None else "nothing was rolled out"]


def _figure(found: Mapping[str, Estimate], metric: str, words: str, of: str) -> str:
    estimate = found[metric]
    if math.isnan(estimate.value):
        return ""
    return (
        f"{words} ({metric}): {estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}] over {of}, 95 % interval"
    )


def _last_loss(path: Path) -> float | None:
    """The loss in the last whole line that has one."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            record: Any = json.loads(line)
        except ValueError:
            continue  # half a line, written when the power went
        if isinstance(record, dict) and isinstance(record.get("loss"), int | float):
            return float(record["loss"])
    return None

"""What ``vla-cl train`` says at the end: how well it went, how long it took, and where the report lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from vla_cl.metrics import HEADLINE_FORGETTING, Estimate, compute_all, load_matrix
from vla_cl.report import write_report
from vla_cl.tracking import LOG, last_loss
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import counted, reason
from vla_cl.types import ConfigurationError

_SHOWN = (("final_average_success", "success at the end"), (HEADLINE_FORGETTING, "forgetting"))


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
        lines = [_figure(found, *shown, counted(len(matrix.tasks), "task")) for shown in _SHOWN]
        if any(lines):
            return [line for line in lines if line]
    return [f"nothing was rolled out{_loss(run)}"]


def _figure(found: Mapping[str, Estimate], metric: str, words: str, of: str) -> str:
    estimate = found[metric]
    if math.isnan(estimate.value):
        return ""
    if math.isnan(estimate.low):
        return f"{words} ({metric}): {estimate.value:.3f} over {of}, no interval ({estimate.why})"
    return (
        f"{words} ({metric}): {estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}] over {of}, 95 % interval"
    )


def _loss(run: Path) -> str:
    """The last loss in words, and what of the log is damaged."""
    try:
        loss, damaged = last_loss(run)
    except OSError as error:
        return f"; {LOG} cannot be read ({reason(error)})"
    told = "" if loss is None else f"; the last loss is {loss:.3g}"
    if damaged:
        told += f"; {damaged} damaged line{'s' * (damaged != 1)} at the end of {LOG} passed over"
    return told

"""What ``vla-cl train`` says at the end: how well it went, how long it took, and where the report lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.metrics import HEADLINE_FORGETTING, Estimate, ScoreMatrix, compute_all, load_matrix
from vla_cl.metrics.text import results_to_json
from vla_cl.report import write_report
from vla_cl.run.tracking import LOG, last_loss
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import counted, harmless, reason
from vla_cl.types import ConfigurationError

_AT_THE_END = (("final_average", "{score} at the end"), (HEADLINE_FORGETTING, "forgetting"))
_LEARNT = (("learning_accuracy", "{score} just after learning each task"),)


@dataclass(frozen=True)
class Outcome:
    """What a run that has just finished came to.

    Attributes:
        text: A few lines for people.
        content: The same as plain data.
    """

    text: str
    content: dict[str, object]

    @classmethod
    def of(cls, run: Path) -> Outcome:
        """Of a run's folder; its report is written.

        Raises:
            ConfigurationError: A file of the run is damaged.
        """
        summary = read_json_object(run / "run.json", "the summary of the run", "train it again")
        report: Path | None = None
        try:
            report = write_report([run])
            told = f"report: {report}"
        except ConfigurationError as error:
            told = f"report: none ({error})"
        seconds = summary["seconds"]
        begin = (
            f"{summary['name']}: learnt {counted(len(summary['experiences']), 'experience')} with {summary['method']} "
            f"in {seconds['total']:.0f} s (training {seconds['train']:.0f} s, "
            f"{_evaluating(summary)} {seconds['evaluate']:.0f} s)"
        )
        content = {
            "run": str(run),
            **{key: summary[key] for key in ("name", "method", "arrangement", "status", "seconds")},
            "experiences": [experience["name"] for experience in summary["experiences"]],
            "metrics": _metrics(run),
            "report": None if report is None else str(report),
        }
        return cls("\n".join([begin, *_results(run), told, f"done: {run}"]), content)


def _metrics(run: Path) -> dict[str, object] | None:
    """Every metric, as of ``vla-cl metrics --json``; None where nothing was scored."""
    if not (run / "matrix.json").is_file():
        return None
    matrix = load_matrix(run)
    return results_to_json(compute_all(matrix), matrix.measure)


def _evaluating(summary: Mapping[str, Any]) -> str:
    return "rollouts" if "suite" in summary else "evaluation"


def _results(run: Path) -> list[str]:
    if not (run / "matrix.json").is_file():
        return [f"nothing was rolled out{_loss(run)}"]
    matrix = load_matrix(run)
    found = compute_all(matrix)
    score = harmless(matrix.measure.words, 60)
    lines = [
        _figure(found, metric, words.format(score=score), _counts(matrix, metric)) for metric, words in _shown(found)
    ]
    return [line for line in lines if line] or [_measured(matrix) or f"nothing was rolled out{_loss(run)}"]


def _shown(found: Mapping[str, Estimate]) -> tuple[tuple[str, str], ...]:
    """Which figures: where not every task is evaluated at the end, as in an independent run, success once learnt."""
    return _LEARNT if math.isnan(found["final_average"].value) else _AT_THE_END


def _counts(matrix: ScoreMatrix, metric: str) -> str:
    """What the mean is over: tasks, old tasks, or positions of a stream that repeats tasks."""
    positions = matrix.positions
    if metric == "final_average" or positions is None:
        return counted(len(matrix.tasks), "task")
    old = metric == HEADLINE_FORGETTING
    number = len(positions) - old
    if len(set(positions)) < len(positions):
        return f"{counted(number, 'earlier position' if old else 'position')} of the stream"
    return counted(number, "old task" if old else "task")


def _measured(matrix: ScoreMatrix) -> str:
    """The score of each task when it was evaluated last, where no metric is defined; empty if nothing was evaluated."""
    columns = [column[~np.isnan(column)] for column in matrix.scores.T]
    last = [float(column[-1]) for column in columns if len(column)]
    if not last:
        return ""
    score, mean = harmless(matrix.measure.words, 60), sum(last) / len(last)
    return f"{score} when evaluated last: {mean:.3f}, mean over {counted(len(last), 'task')}"


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

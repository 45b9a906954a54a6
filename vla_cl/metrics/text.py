"""What ``vla-cl metrics`` prints: the matrix and its metrics as text or as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from vla_cl.metrics.estimate import Estimate, compute_all
from vla_cl.metrics.matrix import ScoreMatrix, load_matrices, load_matrix
from vla_cl.metrics.plain import FloatArray
from vla_cl.metrics.table import METRICS
from vla_cl.scores import SUCCESS, Measure
from vla_cl.storage.names import task_name
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import harmless, short

_WIDTH = 98
_PATH = 60
_LABEL = 28  # at most, of a row of the matrix
_ARROWS = {"higher": "↑", "lower": "↓"}


def describe(
    path: Path | str, as_json: bool = False, reference: Path | str | None = None, measure: str | None = None
) -> str:
    """The score matrix and all metrics of a run.

    Args:
        path: A ``matrix.json`` or a run folder.
        as_json: For machines: the metrics and the matrix as one JSON object; undefined is null.
        reference: The same for an ``independent`` run of the same tasks, for `cw_forward_transfer`.
        measure: Name of the measure; by default the one that the run shows.

    Raises:
        ConfigurationError: A file is missing or broken, or the reference does not fit.
    """
    matrix = load_matrix(path, measure)
    results = compute_all(matrix, None if reference is None else load_matrix(reference, measure))
    if as_json:
        named = {} if reference is None else {"reference": short(reference, 4096)}
        content = {"metrics": results_to_json(results, matrix.measure), "matrix": matrix.to_json(), **named}
        return json.dumps(content, indent=1, allow_nan=False)
    told = "" if reference is None else f"\n{_of_reference(Path(reference))}"
    others = [name for name in _measures(Path(path)) if name != matrix.measure.name]
    told += f"\n\n{textwrap.fill(matrix.measure.note, _WIDTH)}" if matrix.measure.note else ""
    told += f"\n\nfurther measures of this run: {', '.join(others)} (--measure {others[0]})" if others else ""
    return f"{format_matrix(matrix)}\n\n{format_table(results, matrix.measure)}{told}"


def _measures(path: Path) -> list[str]:
    """The measures of a run's folder; none of a file."""
    return [harmless(matrix.measure.name, 40) for matrix in load_matrices(path)] if path.is_dir() else []


def _of_reference(reference: Path) -> str:
    """Which reference was read, and whether it is one of plain fine-tuning as far as its run says."""
    summary = reference / "run.json"
    method = None
    if summary.is_file():
        method = read_json_object(summary, "the summary of the reference", "restore it or run again").get("method")
    note = f"reference of cw_forward_transfer: {short(reference, _PATH)}"
    if method not in (None, "sequential"):
        note += f", which learns with {harmless(str(method), 40)} and not by plain fine-tuning (method=sequential)"
    return textwrap.fill(note, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def results_to_json(results: Mapping[str, Estimate], measure: Measure = SUCCESS) -> dict[str, object]:
    """Metrics as plain data: value and interval, or why there is none, what the metric is; undefined is None."""
    metrics = {metric.name: metric for metric in METRICS}
    return {
        name: {
            **plain(result),
            "direction": metrics[name].better(measure),
            "meaning": metrics[name].meaning,
            "bias": metrics[name].bias_of(measure) or None,
            "source": metrics[name].source,
        }
        for name, result in results.items()
    }


def plain(estimate: Estimate) -> dict[str, object]:
    """Value and interval as plain data, None where undefined, and why the one or the other is."""
    undefined = math.isnan(estimate.value)
    return {
        "value": _null(estimate.value),
        "low": _null(estimate.low),
        "high": _null(estimate.high),
        "why_no_interval": None if undefined else estimate.why or None,
        "why_undefined": estimate.why or None if undefined else None,
    }


def format_table(results: Mapping[str, Estimate], measure: Measure = SUCCESS) -> str:
    """Metrics as an aligned table: name, value, 95% interval, which way is better and what it means; notes below it.

    A value without an interval has a word in its place; the notes say why, why a metric is not defined, and which way
    each one is off.
    """
    metrics = {metric.name: metric for metric in METRICS}
    rows = [("metric", "value", "95% interval", "better, and what it means")]
    for name, result in results.items():
        meaning = f"{_ARROWS[metrics[name].better(measure)]} {metrics[name].meaning}"
        rows.append((name, _number(result.value), _interval(result), meaning))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {interval:<{widths[2]}}  {meaning}"
        for name, value, interval, meaning in rows
    )
    notes = "\n".join(_notes(results, measure))
    return f"{table}\n\n{notes}" if notes else table


def _notes(results: Mapping[str, Estimate], measure: Measure) -> list[str]:
    """Each reason for a missing value or interval, and each bias, with the metrics that it is about."""
    about: dict[str, list[str]] = {}
    for metric in METRICS:
        result = results.get(metric.name)
        if result is None:
            continue
        if math.isnan(result.value):
            if result.why:
                about.setdefault(f"not defined: {result.why}", []).append(metric.name)
            continue
        if bias := metric.bias_of(measure):
            interval = "no interval" if math.isnan(result.low) else "an interval allows for it"
            about.setdefault(f"{bias}; {interval}", []).append(metric.name)
        if result.why and metric.terms is not None:
            about.setdefault(f"no interval: {result.why}", []).append(metric.name)
    return [
        textwrap.fill(f"{', '.join(names)}: {reason}.", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for reason, names in about.items()
    ]


def format_matrix(matrix: ScoreMatrix) -> str:
    """The score matrix; one row per experience, one column per task, ``-`` where not evaluated.

    Shares of trials are in percent.

    Columns carry the tasks' names if they fit; else numbers, with a legend above.
    """
    names = [harmless(task_name(task)) for task in matrix.tasks]
    labels = [_shorten(f"after {harmless(name)}", _LABEL) for name in matrix.experiences]
    rows = list(matrix.scores)
    if matrix.baseline is not None:
        labels, rows = ["untrained", *labels], [matrix.baseline, *rows]
    label = max(map(len, labels))
    lines = [f"{_heading(matrix.measure)}{_trials(matrix)}"]
    if label + sum(max(len(name), 3) + 2 for name in names) <= _WIDTH:
        heads = names
    else:
        heads = [str(index + 1) for index in range(len(names))]
        legend = "  ".join(
            f"{head} {name}".replace(" ", "\N{NO-BREAK SPACE}") for head, name in zip(heads, names, strict=True)
        )
        wrapped = textwrap.wrap(legend, _WIDTH - 7, break_on_hyphens=False)
        lines += [("tasks: " if not index else " " * 7) + line for index, line in enumerate(wrapped)]
        lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    cells = [[_cell(row, column, matrix.measure) for column in range(len(heads))] for row in rows]
    widest = max(len(cell) for row in cells for cell in row)
    widths = [max(len(head), 3, widest) for head in heads]
    for block in _blocks(widths, _WIDTH - label):
        lines += ["", _line("", label, [heads[column] for column in block], [widths[column] for column in block])]
        for name, shown in zip(labels, cells, strict=True):
            lines.append(_line(name, label, [shown[column] for column in block], [widths[column] for column in block]))
    return "\n".join(lines)


def _line(label: str, label_width: int, cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"{label:<{label_width}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns cut into groups that fit side by side."""
    blocks: list[list[int]] = [[]]
    used = 0
    for column, width in enumerate(widths):
        if blocks[-1] and used + width + 2 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += width + 2
    return blocks


def _heading(measure: Measure) -> str:
    title = harmless(measure.words, _LABEL)
    return f"{title} in percent" if measure.kind == "proportion" else f"{title}, {measure.direction} is better"


def _trials(matrix: ScoreMatrix) -> str:
    word = "episodes" if matrix.measure == SUCCESS else "trials"
    if matrix.counts is None:
        return f", {word} unknown, so without intervals"
    counts = matrix.counts[matrix.counts > 0]
    if not len(counts):
        return ""
    low, high = counts.min(), counts.max()
    return f", {low} {word} per cell" if low == high else f", {low} to {high} {word} per cell"


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _cell(row: FloatArray, column: int, measure: Measure) -> str:
    if math.isnan(row[column]):
        return "-"
    return f"{100 * row[column]:.0f}" if measure.kind == "proportion" else f"{row[column]:.3g}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no "-0.000"


def _interval(result: Estimate) -> str:
    if math.isnan(result.value):
        return ""
    if math.isnan(result.low):
        return f"none: {result.why.partition(':')[0]}" if result.why else ""
    return f"{round(result.low, 3) + 0.0:6.3f} to {round(result.high, 3) + 0.0:6.3f}"


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value + 0.0  # no -0.0

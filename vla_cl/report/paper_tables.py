"""The tables of the report for a paper: CSV with one number in a row, LaTeX with the package booktabs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from vla_cl.metrics import Estimate
from vla_cl.report.groups import RunGroup
from vla_cl.report.heat_maps import HeatMap
from vla_cl.report.metric_tables import metric_tables
from vla_cl.report.scale import Scale
from vla_cl.trust.text import harmless

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "\N{MINUS SIGN}": "$-$", "–": "--", "\u00a0": "~", "…": r"\ldots{}",
}  # fmt: skip


def latex(text: str) -> str:
    """A text of others in LaTeX: it is shown as it is and does nothing."""
    return "".join(_SPECIAL.get(character, character) for character in harmless(text, 2_000))


def metrics_csv(groups: Sequence[RunGroup]) -> str:
    """Every metric of every run, and over the seeds of every method: the row with an empty seed."""
    rows: list[Sequence[object]] = [("method", "seeds", "seed", "metric", "value", "low", "high", "why_none")]
    for group in groups:
        single = zip((run.train_seed for run in group.runs), group.of_runs, strict=True)
        pooled = [(None, group.estimates)] if len(group.runs) > 1 else []
        for seed, found in [*pooled, *single]:
            rows += [
                (group.label, len(group.runs), "" if seed is None else seed, name, *_numbers(estimate), estimate.why)
                for name, estimate in found.items()
            ]
    return _csv(rows)


def matrix_csv(groups: Sequence[RunGroup]) -> str:
    """Every measured cell of every run."""
    rows: list[Sequence[object]] = [("method", "seed", "experience", "after", "task", "score", "trials", "spread")]
    for group in groups:
        for run in group.evaluated:
            matrix = run.matrix
            if matrix is None:
                continue
            for row, name in enumerate(matrix.experiences):
                for column, task in enumerate(matrix.tasks):
                    score = float(matrix.scores[row, column])
                    if math.isnan(score):
                        continue
                    count = "" if matrix.counts is None else int(matrix.counts[row, column])
                    spread = math.nan if matrix.spread is None else float(matrix.spread[row, column])
                    rows.append((group.label, run.train_seed, row + 1, name, task, score, count, _number(spread)))
    return _csv(rows)


def metrics_latex(groups: Sequence[RunGroup], scale: Scale) -> str:
    """The metrics that the report shows first, one line for each method."""
    tables = metric_tables(groups, scale)
    columns = tables[0].columns if tables else ()
    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    head = ["method", "seeds", *(rf"\texttt{{{latex(column.name)}}} {arrows[column.better]}" for column in columns)]
    rows = []
    for group, (_, label, values) in zip(groups, tables[0].rows if tables else (), strict=False):
        cells = [
            latex(value) + (rf" {{\small {latex(around)}}}" if around.startswith("[") else "")
            for value, around in values
        ]
        rows.append([latex(label), str(len(group.runs)), *cells])
    note = f"{scale.title}. Brackets: 95 % intervals, over three seeds or more or of one seed's {scale.trials}."
    return _tabular("l" + "r" * (len(head) - 1), head, rows, note)


def matrix_latex(shown: HeatMap, scale: Scale) -> str:
    """A score matrix."""
    unit = ", in percent" if scale.in_percent else ""
    rows = [[latex(name), *(latex(cell.text) or "--" for cell in cells)] for name, cells in shown.rows]
    head = ["", *map(latex, shown.tasks)]
    return _tabular("l" + "r" * len(shown.tasks), head, rows, f"{scale.title}{unit}: {shown.label}.")


def _tabular(columns: str, head: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> str:
    lines = [
        rf"% {latex(note)} Needs \usepackage{{booktabs}}.",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _numbers(estimate: Estimate) -> tuple[object, object, object]:
    return _number(estimate.value), _number(estimate.low), _number(estimate.high)


def _number(value: float) -> object:
    return "" if math.isnan(value) else value


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()

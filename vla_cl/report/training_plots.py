"""Training loss over optimizer steps: one panel for each group, its seeds as one band."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vla_cl.report.groups import RunGroup
from vla_cl.report.load import RunRecord, TrainingCurve
from vla_cl.report.plots import Figure
from vla_cl.report.svg import RUN_STYLES, Panel, short_number
from vla_cl.trust.text import counted

MAX_LOSS_POINTS = 160
"""Training curves are averaged down to this many points, so that long runs stay small files."""

Averaged = list[tuple[float, float, float, float]]
"""Step, lowest, mean and highest loss."""


def borders_are_drawn(runs: Sequence[RunRecord]) -> bool:
    """Whether a training curve has more than one experience."""
    return any(run.training is not None and ((run.boundaries or ())[:-1] or run.borders) for run in runs)


def training_curves(groups: Sequence[RunGroup]) -> list[Figure]:
    """Loss over optimizer steps, one panel per group on a common logarithmic scale where all losses are positive."""
    curves = [(group, curve) for group in groups if (curve := _pooled(group))]
    if not curves:
        return []
    values = [loss for _, curve in curves for _, low, _, high in curve for loss in (low, high)]
    logarithmic = min(values) > 0 and max(values) > 5 * min(values)
    wide = len(curves) == 1
    return [_training_panel(group, curve, (min(values), max(values)), logarithmic, wide) for group, curve in curves]


def _pooled(group: RunGroup) -> Averaged:
    """The curves of a group's runs as one: lowest, mean and highest of all of them."""
    losses: dict[float, list[float]] = {}
    for run in group.runs:
        for step, loss in _points(run.training):
            losses.setdefault(step, []).append(loss)
    steps = sorted(losses)
    size = max(1, math.ceil(len(steps) / MAX_LOSS_POINTS))
    found = []
    for start in range(0, len(steps), size):
        stretch = [loss for step in steps[start : start + size] for loss in losses[step]]
        found.append((steps[start], min(stretch), sum(stretch) / len(stretch), max(stretch)))
    return found


def _points(curve: TrainingCurve | None) -> list[tuple[float, float]]:
    """Steps and losses; losses that are not finite are left out."""
    if curve is None:
        return []
    return [(step, loss) for step, loss in zip(curve.steps, curve.losses, strict=True) if math.isfinite(loss)]


def _training_panel(
    group: RunGroup,
    curve: Averaged,
    value_range: tuple[float, float],
    logarithmic: bool,
    wide: bool,
) -> Figure:
    """A group's loss: the mean as a line, lowest to highest as a band, borders between experiences as thin lines."""
    scale = math.log10 if logarithmic else float
    run = group.first
    boundaries = run.boundaries or ()
    end = max([step for step, *_ in curve] + list(boundaries))
    borders = boundaries[:-1] or run.borders
    panel = Panel(700 if wide else 340, 210 if wide else 190, (0, end), (scale(value_range[0]), scale(value_range[1])))
    style = f"run-{group.index % RUN_STYLES}"
    parts = [panel.horizontal_grid([(scale(tick), f"{tick:g}") for tick in _loss_ticks(value_range, logarithmic)])]
    parts += [panel.vertical_line(boundary, "border") for boundary in borders]
    parts.append(
        panel.x_labels([(0, "0"), *((tick, short_number(tick)) for tick in _step_ticks([*borders, end], end))])
    )
    lower, upper = (
        [(step, scale(low)) for step, low, _, _ in curve],
        [(step, scale(high)) for step, _, _, high in curve],
    )
    parts.append(panel.area(lower, upper, f"spread {style}"))
    parts.append(panel.line([(step, scale(mean)) for step, _, mean, _ in curve], f"line solid {style}"))
    several = f", {counted(len(group.runs), 'seed')}" if len(group.runs) > 1 else ""
    title = f"Training loss of {group.label}{several}"
    return Figure(f"{group.label}{several}", panel.picture(title, parts, "plot wide" if wide else "plot"))


def _step_ticks(boundaries: Sequence[float], end: float) -> list[float]:
    """The borders between experiences, or quarters of the run if there are none."""
    return list(boundaries) if len(boundaries) > 1 else [end * quarter / 4 for quarter in range(1, 5)]


def _loss_ticks(value_range: tuple[float, float], logarithmic: bool) -> list[float]:
    """Round numbers inside the range: 1, 2 and 5 times powers of ten, or about four even steps."""
    low, high = value_range
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
        return [tick for power in powers for factor in factors if low <= (tick := float(f"{factor}e{power}")) <= high]
    step = float(f"1e{math.floor(math.log10((high - low) or 1))}")
    step *= 0.5 if (high - low) / step < 3 else 2 if (high - low) / step > 6 else 1
    return [tick * step for tick in range(math.ceil(low / step), math.floor(high / step) + 1)]

"""The few SVG shapes the plots are made of. The style sheet gives their colours, so they follow dark mode and print."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

RUN_STYLES = 8
"""Line styles in the style sheet (``run-0`` to ``run-7``): each a colour and a marker; further runs start over."""


@dataclass(frozen=True)
class Panel:
    """A plotting area with linear axes; maps data to pixels of the view box.

    Attributes:
        width: Of the whole picture, labels included.
        height: Of the whole picture, labels included.
        x_range: Data at the left and right edge.
        y_range: Data at the lower and upper edge.
        inset: Pixels between the frame and the data's ends, so that markers at the ends are inside.
    """

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 40
    right: float = 12
    top: float = 8
    bottom: float = 24
    inset: float = 0

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        width = self.width - self.left - self.right - 2 * self.inset
        return round(self.left + self.inset + (value - low) / ((high - low) or 1) * width, 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_range
        height = self.height - self.top - self.bottom - 2 * self.inset
        return round(self.height - self.bottom - self.inset - (value - low) / ((high - low) or 1) * height, 1)

    def picture(self, title: str, parts: Sequence[Markup], css_class: str = "plot") -> Markup:
        """The whole SVG element, with a title that screen readers read."""
        return Markup(
            '<svg class="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">{}</svg>'
        ).format(css_class, self.width, self.height, title, Markup("").join(parts))

    def horizontal_grid(self, ticks: Sequence[tuple[float, str]]) -> Markup:
        """Grid lines with labels at the left."""
        line = Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick end" x="{}" y="{}">{}</text>'
        )
        left, right = self.left, self.width - self.right
        return Markup("").join(
            line.format(left, right, self.y(value), self.y(value), left - 6, self.y(value) + 3.5, text)
            for value, text in ticks
        )

    def x_labels(self, ticks: Sequence[tuple[float, str]]) -> Markup:
        """Labels below the lower edge, as many as fit."""
        step = max(1, math.ceil(len(ticks) * 44 / (self.width - self.left - self.right)))
        shown = list(ticks)[::-1][::step]  # keep the last one
        label = Markup('<text class="tick {}" x="{}" y="{}">{}</text>')
        anchor = {True: "end", False: "middle"}
        return Markup("").join(
            label.format(anchor[self.x(value) > self.width - self.right - 8], self.x(value), self.height - 8, text)
            for value, text in shown
        )

    def vertical_line(self, value: float, css_class: str) -> Markup:
        """A line over the full height."""
        return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            css_class, self.x(value), self.x(value), self.top, self.height - self.bottom
        )

    def band(self, start: float, end: float, css_class: str) -> Markup:
        """A shaded stretch of the x axis."""
        return Markup('<rect class="{}" x="{}" width="{:.1f}" y="{}" height="{}"/>').format(
            css_class,
            self.x(start),
            max(0.0, self.x(end) - self.x(start)),
            self.top,
            self.height - self.top - self.bottom,
        )

    def line(self, points: Sequence[tuple[float, float]], css_class: str) -> Markup:
        """A line through data points."""
        path = " ".join(f"{self.x(x):g},{self.y(y):g}" for x, y in points)
        return Markup('<polyline class="{}" points="{}"/>').format(css_class, path)

    def area(
        self, lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], css_class: str
    ) -> Markup:
        """The area between two lines."""
        path = " ".join(f"{self.x(x):g},{self.y(y):g}" for x, y in [*lower, *reversed(upper)])
        return Markup('<polygon class="{}" points="{}"/>').format(css_class, path)


def moved(parts: Sequence[Markup], right: float, down: float) -> Markup:
    """Shapes moved by some pixels."""
    return Markup('<g transform="translate({:g},{:g})">{}</g>').format(right, down, Markup("").join(parts))


def _circle(x: float, y: float) -> str:
    return f"M{x - 3.5:g},{y:g}a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0"


def _square(x: float, y: float) -> str:
    return f"M{x - 3.2:g},{y - 3.2:g}h6.4v6.4h-6.4z"


def _triangle(x: float, y: float) -> str:
    return f"M{x:g},{y - 4.2:g}l4.2,7.4h-8.4z"


def _diamond(x: float, y: float) -> str:
    return f"M{x:g},{y - 4.6:g}l4.6,4.6l-4.6,4.6l-4.6,-4.6z"


_MARKERS: tuple[Callable[[float, float], str], ...] = (_circle, _square, _triangle, _diamond)


def marker(run: int, x: float, y: float, title: str, css_class: str = "marker") -> Markup:
    """The marker of a run at a pixel position; ``title`` shows when the pointer rests on it."""
    shape = _MARKERS[run % len(_MARKERS)](round(x, 1), round(y, 1))
    return Markup('<path class="{} run-{}" d="{}"><title>{}</title></path>').format(
        css_class, run % RUN_STYLES, shape, title
    )


def legend_swatch(run: int, reference: str | None = None) -> Markup:
    """A short piece of a run's line, for legends; ``reference`` is the arrangement of a run drawn as a level line."""
    line = Markup('<line class="line run-{}{}" x1="1" x2="27" y1="7" y2="7"/>').format(
        run % RUN_STYLES, f" {reference}" if reference else ""
    )
    shape = Markup("") if reference else marker(run, 14, 7, "")
    return Markup(
        '<svg class="swatch" viewBox="0 0 28 14" width="28" height="14" aria-hidden="true">{}{}</svg>'
    ).format(line, shape)


def interval_bar(
    value: float, low: float, high: float, run: int, title: str, ends: tuple[float, float] = (0, 1)
) -> Markup:
    """A point with its interval on a scale between two ends."""
    panel = Panel(140, 16, ends, (0, 1), left=5, right=5, top=0, bottom=0)
    parts = [Markup('<line class="grid" x1="{}" x2="{}" y1="8" y2="8"/>').format(*map(panel.x, ends))]
    parts += [
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="4" y2="12"/>').format(panel.x(tick))
        for tick in (ends[0], sum(ends) / 2, ends[1])
    ]
    if math.isfinite(low) and math.isfinite(high):
        parts.append(
            Markup('<line class="interval run-{}" x1="{}" x2="{}" y1="8" y2="8"/>').format(
                run % RUN_STYLES, panel.x(max(low, ends[0])), panel.x(min(high, ends[1]))
            )
        )
    parts.append(marker(run, panel.x(value), 8, title))
    return panel.picture(title, parts, "bar")


def short_number(value: float) -> str:
    """``950``, ``1.2k``, ``30k``, ``1.5M``."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"

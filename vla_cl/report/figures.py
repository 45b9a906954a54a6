"""What goes into a paper: each figure as an SVG file of its own, the tables as CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from vla_cl.files import write_text
from vla_cl.report.groups import RunGroup
from vla_cl.report.heat_maps import HeatMap, group_maps
from vla_cl.report.paper_tables import matrix_csv, matrix_latex, metrics_csv, metrics_latex
from vla_cl.report.plots import Figure, legend, scores_over_learning
from vla_cl.report.scale import Scale
from vla_cl.report.training_plots import training_curves
from vla_cl.storage.names import slug
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError

_STYLE = Path(__file__).parent / "style.css"
_GAP = 24
_COLUMNS = 3


def write_figures(folder: Path, groups: Sequence[RunGroup], tasks: Sequence[str], scale: Scale) -> list[Path]:
    """Write every figure and table of a report into a folder; files of the same names are replaced.

    ``scores.svg`` and ``scores-<task>.svg`` are the scores over the course of learning, ``training.svg`` the losses,
    ``matrix-<method>.svg`` the score matrices. ``metrics.csv`` and ``matrix.csv`` hold all numbers, one in a row;
    ``metrics.tex`` and ``matrix-<method>.tex`` are tables for LaTeX with the package booktabs.

    Args:
        folder: Made where it is missing.
        groups: Of the report.
        tasks: Ids, in the report's order.
        scale: Of the measure.

    Returns:
        The files written.

    Raises:
        ConfigurationError: The folder cannot be written.
    """
    texts = {
        "metrics.csv": metrics_csv(groups),
        "metrics.tex": metrics_latex(groups, scale),
        "matrix.csv": matrix_csv(groups),
    }
    key = [(str(swatch), label) for swatch, label in legend(groups)]
    panels = scores_over_learning(groups, tasks, scale)
    if panels:
        texts["scores.svg"] = _sheet(panels, key)
        names = _file_names([panel.title for panel in panels])
        texts |= {f"scores-{name}.svg": _sheet([panel], key) for name, panel in zip(names, panels, strict=True)}
    if losses := training_curves(groups):
        texts["training.svg"] = _sheet(losses, [])
    maps = group_maps(groups, scale)
    for name, found in zip(_file_names([found.name for found in maps]), maps, strict=True):
        texts[f"matrix-{name}.svg"] = _heat_map(found.map)
        texts[f"matrix-{name}.tex"] = matrix_latex(found.map, scale)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the figures to {short(folder)} ({error.strerror or error}); give another folder"
        ) from error
    return [folder / name for name in texts]


def _file_names(texts: Sequence[str]) -> list[str]:
    """A name for each text; a number stands behind what would be the same."""
    names = [slug(text) for text in texts]
    return [name if name not in names[:place] else f"{name}-{place + 1}" for place, name in enumerate(names)]


def _sheet(figures: Sequence[Figure], key: Sequence[tuple[str, str]]) -> str:
    """Panels side by side under a legend, each with its title."""
    sizes = [_size(figure.picture) for figure in figures]
    width, height = max(size[0] for size in sizes), max(size[1] for size in sizes) + 18
    columns = min(_COLUMNS, len(figures))
    total = columns * width + (columns - 1) * _GAP
    entries, below = _legend(key, total)
    parts = [entries]
    for place, (figure, size) in enumerate(zip(figures, sizes, strict=True)):
        x, y = place % columns * (width + _GAP), below + place // columns * (height + _GAP)
        parts.append(Markup('<text class="head" x="{}" y="{}">{}</text>').format(x, y + 11, figure.title))
        parts.append(_placed(figure.picture, x, y + 16, *size))
    rows = -(-len(figures) // columns)
    return _file(total, below + rows * (height + _GAP) - _GAP, parts)


def _legend(key: Sequence[tuple[str, str]], total: float) -> tuple[Markup, float]:
    """The entries in as many lines as they need, and where what follows begins."""
    parts, x, y = [], 0.0, 0.0
    for swatch, label in key:
        width = 34 + 6.2 * len(label) + 16
        if x and x + width > total:
            x, y = 0.0, y + 20
        parts.append(_placed(Markup(swatch), x, y, 28, 14))
        parts.append(Markup('<text class="head" x="{}" y="{}">{}</text>').format(x + 34, y + 11, label))
        x += width
    return Markup("").join(parts), y + 26 if key else 0.0


def _size(picture: Markup) -> tuple[float, float]:
    """Width and height of a picture, which its view box gives."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)
    assert found is not None  # `Panel.picture` writes it
    return float(found[1]), float(found[2])


def _placed(picture: Markup, x: float, y: float, width: float, height: float) -> Markup:
    """A picture at a place within another."""
    bare = re.sub(r' (?:width|height)="[^"]*"', "", str(picture).split(">", 1)[0])
    opening = bare.replace("<svg", f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"', 1)
    return Markup(opening + ">" + str(picture).split(">", 1)[1])


def _heat_map(shown: HeatMap) -> str:
    """A score matrix with its numbers; the cells that were just taught are outlined."""
    colours = _colours()
    left = 12 + 6.2 * max((len(name) for name, _ in shown.rows), default=0)
    longest = max(map(len, shown.tasks))
    width = min(120.0, max(54.0, 6.6 * longest))
    slanted = longest * 6.6 > width
    top = 8 + (4.6 * longest if slanted else 14)
    parts = []
    for column, task in enumerate(shown.tasks):
        x, y = left + (column + 0.5) * width, top - 6
        turn = Markup(' transform="rotate(-40 {:g} {:g})" class="head"').format(x, y)
        turn = turn if slanted else Markup(' class="head middle"')
        parts.append(Markup('<text x="{:g}" y="{:g}"{}>{}</text>').format(x, y, turn, task))
    for row, (name, cells) in enumerate(shown.rows):
        y = top + row * 36
        parts.append(Markup('<text class="head end" x="{:g}" y="{:g}">{}</text>').format(left - 8, y + 21, name))
        for column, cell in enumerate(cells):
            fill = "none" if cell.shade is None else _mixed(colours["heat-low"], colours["heat-high"], cell.shade)
            tone = "#ffffff" if cell.strong else "#1c2024"
            parts.append(
                Markup(
                    '<rect x="{x:g}" y="{y:g}" width="{w:g}" height="34" fill="{fill}" stroke="{line}"/>'
                    '<text class="cell middle" x="{middle:g}" y="{text:g}" style="fill:{tone}">{score}</text>'
                    '<text class="note middle" x="{middle:g}" y="{note:g}" style="fill:{tone}">{under}</text>'
                ).format(
                    x=left + column * width,
                    y=y,
                    w=width - 2,
                    fill=fill,
                    tone=tone,
                    score=cell.text,
                    under=cell.note,
                    line="#1c2024" if cell.taught else "none",
                    middle=left + column * width + width / 2 - 1,
                    text=y + (16 if cell.note else 21),
                    note=y + 28,
                )
            )
    beyond = 4.6 * len(shown.tasks[-1]) if slanted else 0
    return _file(left + len(shown.tasks) * width + beyond, top + len(shown.rows) * 36, parts)


def _mixed(low: str, high: str, share: float) -> str:
    """A colour between two, as ``#rrggbb``."""
    ends = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in (low, high)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(*ends, strict=True))


def _colours() -> dict[str, str]:
    """The colours of the page in daylight, by name."""
    first = _STYLE.read_text(encoding="utf-8").split("}", 1)[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", first))


def _file(width: float, height: float, parts: Sequence[Markup]) -> str:
    """A whole SVG file; its style has plain colours, which every program reads."""
    colours = _colours()
    runs = "".join(
        f".line.{name},.whisker.{name},.interval.{name}{{stroke:{colour}}}"
        f".marker.{name},.spread.{name}{{fill:{colour}}}.untrained.{name}{{stroke:{colour}}}"
        for name, colour in colours.items()
        if name.startswith("run-")
    )
    style = (
        "text{font:11px Arial,Helvetica,sans-serif;fill:#5f6770}.head{font-size:12px;fill:#1c2024}"
        ".cell{font-size:13px}.note{font-size:9px}"
        ".middle{text-anchor:middle}.end{text-anchor:end}"
        f".grid{{stroke:{colours['line']}}}.learning{{fill:{colours['inset']}}}.border{{stroke:#5f6770;opacity:.5}}"
        ".line{fill:none;stroke-width:2;stroke-linejoin:round}.line.joint{stroke-dasharray:2 5}"
        ".line.independent{stroke-dasharray:9 5}.whisker{stroke-width:1.2;opacity:.6}"
        ".interval{stroke-width:4;opacity:.4}"
        ".marker{stroke:#ffffff;stroke-width:1}.untrained{fill:#ffffff;stroke-width:1.5}.spread{opacity:.18}" + runs
    )
    opening = Markup(
        '<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="{0:g}" height="{1:g}" '
        'viewBox="0 0 {0:g} {1:g}"><style>{2}</style><rect width="100%" height="100%" fill="#ffffff"/>'
    ).format(round(width, 1), round(height, 1), Markup(style))
    return str(opening + Markup("").join(parts)) + "</svg>\n"

"""``vla-cl methods``: every method of ``conf/method``, what it works with and costs; also writes docs/methods.md."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.config.compose import build, choices, compose, leading_comment
from vla_cl.interfaces import Method
from vla_cl.trust import markdown
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import short, told_as
from vla_cl.types import PARADIGMS, Ability, ConfigurationError

_STEP_ROW = "step-"
_SHORTEST = 3  # words; a class of fewer only repeats its name

_HEAD = """# Methods

Written by `vla-cl methods --write docs/methods.md`; a test compares the tables with the code. Notation: tasks
$t = 1..T$, loss $\\ell_t$, weights $\\theta$, weights after the last task $\\theta^*$, memory $M$, $P$ parameters.
Each is chosen by `method=<name>`; its settings and their published values are in [conf/method](../conf/method). What a
method needs of a model is checked before a run starts.
"""

_MEASURED = """## What a step costs

`vla-cl bench methods` on {machine}, NanoVLA of 3.3 million parameters, batch 64: the time of a training step over a
plain one after {past} tasks, what theory says for the same step (passes and memory traffic measured on the same
machine), the ratio of both, and what is kept of the past. What NanoVLA cannot do is timed on a test bed, whose name
stands behind the method's, after two tasks.

| method | step over plain | theory | measured over theory | kept | theory |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Entry:
    """A yaml of ``conf/method``.

    Attributes:
        name: Of the preset.
        settings: What it sets.
        method: What the settings make.
        comment: How the yaml begins: whose numbers these are, what of the source is followed and what is not.
    """

    name: str
    settings: Mapping[str, Any]
    method: Method
    comment: str

    @property
    def kind(self) -> type[Method]:
        """The method's class."""
        return type(self.method)


def entries(folders: Sequence[Path] = (), plugins: Sequence[str] = (), only: str | None = None) -> list[Entry]:
    """Every method that ships, by paradigm, then by class, the yaml with the fewest words first.

    Args:
        folders: Further folders laid out like ``conf/``.
        plugins: Packages that their classes may come from.
        only: The name of one.

    Raises:
        ConfigurationError: There is no method of this name, or one cannot be made.
    """
    found = []
    for name in choices("method", folders) if only is None else (only,):
        settings = compose([f"method={name}"], folders=folders)["method"]
        made = build(settings, Method, plugins)
        found.append(Entry(name, settings, made, leading_comment("method", name, folders)))
    return sorted(
        found, key=lambda entry: (_paradigm(entry.kind), entry.kind.__name__, entry.name.count("_"), entry.name)
    )


def text(measured: Path | None = None) -> str:
    """The page, as Markdown.

    Args:
        measured: What ``vla-cl bench methods`` stored, or None for a page without figures.

    Raises:
        ConfigurationError: The file is not what the bench writes.
    """
    listed = entries()
    parts = [_HEAD, *_matrix(listed)]
    if measured is not None:
        parts += _costs(listed, measured)
    for kind in dict.fromkeys(entry.kind for entry in listed):
        parts += _section(kind, [entry for entry in listed if entry.kind is kind])
    return "\n".join(parts).rstrip() + "\n"


def table(listed: Sequence[Entry]) -> str:
    """The methods in lines, for a terminal."""
    rows = [(entry.name, _paradigm_name(entry.kind), _told_apart(entry)) for entry in listed]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:{widths[0]}}  {paradigm:{widths[1]}}  {title}" for name, paradigm, title in rows)


def about(entry: Entry) -> str:
    """All about one method, as its section of the page; of one without a card, what its yaml and its class say."""
    if entry.kind.card is not None:
        return "\n".join(_section(entry.kind, [entry])).rstrip()
    return f"{entry.name}: {entry.comment or '-'}\n\n{_summary(entry.kind)}\n\nsettings: {_words(entry) or 'none'}"


def plain(entry: Entry) -> dict[str, object]:
    """The same as plain data."""
    return {
        "name": entry.name,
        "paradigm": _paradigm_name(entry.kind),
        "title": _told_apart(entry),
        "about": entry.comment,
        "settings": _given(entry),
        "needs": sorted(entry.method.needs),
        "task_id_at_test": entry.kind.task_id_at_test,
    }


def _given(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in entry.settings.items() if key not in ("name", "class")}


def _words(entry: Entry) -> str:
    return ", ".join(markdown.code(f"{key}={_plain(value)}") for key, value in _given(entry).items())


def _paradigm_name(kind: type[Method]) -> str:
    return str(kind.card.paradigm) if kind.card else ""


def _told_apart(entry: Entry) -> str:
    """The method's title; of its further presets, how their comment begins, as in ``OGD for any model``."""
    if entry.kind.card and entry.name == entry.kind.name:
        return entry.kind.card.title
    return re.split(r" \(|[:;.](?: |$)", entry.comment)[0]


def _matrix(listed: Sequence[Entry]) -> Iterator[str]:
    """Method x test bed, from what each declares."""
    from vla_cl.testbeds import BEDS

    abilities = {name: bed().make_model(0).abilities for name, bed in BEDS.items()}
    yield "## What works with what\n"
    yield (
        "Test beds: NanoVLA with regression and with flow matching (any LeRobot policy with the same abilities), a\n"
        "causal language model, a diffusion model. Every pair with *yes* is run by the contract tests.\n"
    )
    yield markdown.row(["method", *(name.replace("_", " ") for name in abilities)])
    yield "|---|" + "---|" * len(abilities)
    for entry in listed:
        cells = [_support(entry.method, of_bed) for of_bed in abilities.values()]
        yield markdown.row([markdown.code(entry.name), *cells])
    yield ""


def _support(method: Method, abilities: frozenset[Ability]) -> str:
    missing = sorted(method.needs - abilities)
    return "no: lacks " + ", ".join(f"`{ability}`" for ability in missing) if missing else "yes"


def _costs(listed: Sequence[Entry], path: Path) -> Iterator[str]:
    remedy = "run vla-cl bench methods rows=[step] again"
    stored: dict[str, dict[str, Any]] = read_json_object(path, "the file of measurements", remedy)
    failures = (KeyError, TypeError, ValueError, AttributeError)
    with told_as(f"{short(path)} is not what vla-cl bench methods stores", remedy, *failures):
        yield from _cost_lines(listed, stored, path)


def _cost_lines(listed: Sequence[Entry], stored: Mapping[str, dict[str, Any]], path: Path) -> Iterator[str]:
    from vla_cl.testbeds import BEDS

    beds = ("", *(f"-{bed}" for bed in BEDS))
    names = [entry.name + bed for entry in listed for bed in beds if _STEP_ROW + entry.name + bed in stored]
    rows = {name: stored[_STEP_ROW + name] for name in names}
    if not rows:
        raise ConfigurationError(f"{short(path)} holds no row step-<method>; run vla-cl bench methods rows=[step]")
    first = next(iter(rows.values()))
    yield _MEASURED.format(machine=first["machine"].get("cpu", "one machine"), past=first.get("past", 3)).rstrip()
    for name, row in rows.items():
        if "cannot_run" in row:
            yield markdown.row([markdown.code(name), *"----", str(row["cannot_run"])])
            continue
        figures = {figure["who"]: figure["value"] for figure in row["figures"]}
        ratio, excess = row["ratio"], row["others"].get("measured over theory")
        over = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else "void"
        cells = [
            over,
            f"{figures['theory over plain']:.2f}",
            f"{excess['median']:.2f} [{excess['low']:.2f}, {excess['high']:.2f}]" if excess else "void",
            _bytes(figures["kept"]),
            _bytes(figures["kept in theory"]),
        ]
        yield markdown.row([markdown.code(name), *cells])
    yield ""


def _section(kind: type[Method], presets: Sequence[Entry]) -> Iterator[str]:
    card = kind.card
    if card is None:
        raise ConfigurationError(f"{kind.__module__}:{kind.__qualname__} has no card; give it a MethodCard")
    yield f"## {card.title}\n"
    yield f"$$ {card.equation} $$\n"
    yield f"{_summary(kind)}\n"
    yield f"- source: {card.source}"
    yield f"- what we follow: {card.follows}"
    yield f"- a step, in theory: {card.step}"
    yield f"- kept of the past, in theory: {card.memory}"
    if needs := presets[0].method.needs:
        yield "- needs of the model: " + ", ".join(f"`{ability}`" for ability in sorted(needs))
    if kind.task_id_at_test:
        yield "- must be told at test time which task it is (`task_id_at_test`)"
    for preset in presets:
        yield f"- {markdown.code(f'method={preset.name}')}: {preset.comment} Settings: {_words(preset) or 'none'}"
    yield ""


def _summary(kind: type[Method]) -> str:
    """The first sentence about the module, and what the class says of itself before its arguments, as Markdown.

    A class that builds on another of its module speaks for itself: the sentence is about the other.
    """
    builds_on = any(base.__module__ == kind.__module__ and "card" in vars(base) for base in kind.__mro__[1:])
    about = "" if builds_on else (sys.modules[kind.__module__].__doc__ or "").split("\n\n")[0]
    own = (inspect.getdoc(kind) or "").split("\n\nArgs:")[0].split("\n\nRaises:")[0]
    blocks = f"{about} {own if len(own.split()) > _SHORTEST else ''}".strip().replace("``", "`").split("\n\n")
    return "\n\n".join(_block(block) for block in blocks)


def _block(text: str) -> str:
    """A paragraph in one line; a list with a line for each item."""
    items = re.split(r"^\* ", text, flags=re.MULTILINE)
    begin, *listed = (" ".join(item.split()) for item in items)
    return "\n".join([begin] * bool(begin) + [f"- {item}" for item in listed])


def _plain(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _paradigm(kind: type[Method]) -> int:
    """Its place among `PARADIGMS`; a class without a card comes last."""
    paradigm = kind.card.paradigm if kind.card else None
    return len(PARADIGMS) if paradigm is None else PARADIGMS.index(paradigm)


def _bytes(value: float) -> str:
    for limit, unit in ((1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"

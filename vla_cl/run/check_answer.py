"""What ``vla-cl check`` shows of a run's data and tasks, for people and as plain data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from vla_cl.config.compose import Settings
from vla_cl.run.check import Checked, check
from vla_cl.trust.text import counted, harmless, short
from vla_cl.types import Stream

if TYPE_CHECKING:
    from rich.table import Table

    from vla_cl.data.preflight import DatasetReport


def check_command(settings: Settings) -> dict[str, object]:
    """``vla-cl check``: look, show a table of what was found, write nothing.

    Returns:
        The same as plain data.

    Raises:
        ConfigurationError: The first thing that is wrong.
    """
    from rich.console import Console

    checked = check(settings)
    console = Console(highlight=False)
    if checked.reports:
        console.print(_table_of_data(checked.reports), end="\n\n")
    console.print(_table_of_tasks(checked), end="\n\n")
    checked.say()
    experiences = counted(len(checked.found.stream), "experience")
    console.print(
        f"nothing speaks against it: {experiences}, policy {checked.policy.kind!r}, method {checked.method.name!r}, on "
        f"{checked.policy.device}",
        soft_wrap=True,
        markup=False,
    )
    known = {task.id for task in checked.found.evaluable}
    return {
        "experiences": plain_stream(checked.found.stream, known),
        "datasets": [
            {"folder": str(report.root), "frames": report.frames, "episodes": report.episodes, "fps": report.fps}
            for report in checked.reports
        ],
        "policy": checked.policy.kind,
        "method": checked.method.name,
        "device": checked.policy.device,
        "notes": list(checked.notes),
    }


def plain_stream(stream: Stream, evaluated: Collection[str]) -> list[dict[str, object]]:
    """What is learnt, as plain data.

    Args:
        stream: In order.
        evaluated: The ids of the tasks that are scored.
    """
    return [
        {
            "name": experience.name,
            "tasks": [
                {"id": task.id, "instruction": task.instruction, "evaluated": task.id in evaluated}
                for task in experience.tasks
            ],
        }
        for experience in stream
    ]


def _table_of_data(reports: Sequence[DatasetReport]) -> Table:
    table = _table("dataset", "frames", "episodes", "tasks", "fps", "state", "action", "cameras (h x w)")
    for report in reports:
        cameras = "\n".join(f"{camera_word(key)} {h}x{w}" for key, (h, w) in report.spec.cameras.items())
        numbers = (report.frames, report.episodes, report.tasks, f"{report.fps:g}")
        sizes = (report.spec.state_size, report.spec.action_size)
        table.add_row(escape(short(report.root)), *map(str, (*numbers, *sizes)), escape(cameras or "none"))
    return table


def _table_of_tasks(checked: Checked) -> Table:
    known = {task.id for task in checked.found.evaluable}
    table = _table("experience", "instruction", "data", "rolled out")
    for experience in checked.found.stream:
        for task in experience.tasks:
            recorded = (checked.found.recorded or {}).get(task.id, [])
            data = ", ".join(source.root.name for source in recorded) or "demonstrations of the suite"
            shown = (experience.name, task.instruction, data)
            table.add_row(*(escape(harmless(text, 120)) for text in shown), "yes" if task.id in known else "no")
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def camera_word(key: str) -> str:
    """A camera's name without the beginning that all have."""
    return harmless(key.removeprefix("observation.images.").removeprefix("observation."), 40)

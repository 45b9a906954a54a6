"""The results on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vla_cl.bench.rows import Row

_NARROWEST = 110  # columns; narrower, the table is unreadable and long lines are the lesser evil


def show(stored: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Row], names: Sequence[str], title: str) -> None:
    """Print every stored row of ``rows``, those of ``names`` with their details below.

    Args:
        stored: Row to result.
        rows: The rows there are; gives the order.
        names: The rows that were measured now.
        title: Of the table.
    """
    console = Console()
    if console.width < _NARROWEST:
        console = Console(width=_NARROWEST)
    table = Table(show_lines=True, title=title)
    table.add_column("row", no_wrap=True)
    table.add_column("ratio, 95 % interval", no_wrap=True, justify="right")
    table.add_column("goal")
    table.add_column("gate")
    table.add_column("figures")
    for name in rows:
        if name in stored:
            table.add_row(*_cells(name, stored[name], rows[name]), style="" if name in names else "dim")
    console.print(table)
    for name in names:
        _details(console, name, stored[name])
    if set(names) != set(stored):
        console.print("Dim rows are from earlier measurements.")


def _cells(name: str, result: Mapping[str, Any], row: Row) -> tuple[str, str, str, str, str]:
    label = f"{name}\n(quick: no figure counts)" if result.get("quick") else name
    if "cannot_run" in result:
        return label, "-", row.goal, "not run", str(result["cannot_run"])
    gate = result["gate"]
    verdict = "none" if gate is None else "passed" if gate["passed"] else "FAILED: void"
    ratio = "-" if result["ratio"] is None else _ratio(result["ratio"])
    reached = {True: "\nreached", False: "\nnot reached", None: ""}[result["holds"]]
    figures = "\n".join(f"{figure['who']}: {_number(figure['value'])} {figure['unit']}" for figure in result["figures"])
    return label, ratio, row.goal + reached, verdict, figures


def _details(console: Console, name: str, result: Mapping[str, Any]) -> None:
    if "cannot_run" in result:
        return
    console.print(f"[bold]{name}[/bold]: {result['compares']}", highlight=False)
    if result["gate"] is not None:
        console.print(f"  equal: {result['gate']['equal']}; {result['gate']['detail']}", highlight=False)
    for peer, ratio in result["others"].items():
        console.print(f"  against {peer}: {_ratio(ratio)}", highlight=False)
    if result["profile"]:
        parts = ", ".join(f"{part} {share}" for part, share in result["profile"].items())
        console.print(f"  time: {parts}", highlight=False)
    if result["notes"]:
        console.print(f"  {result['notes']}", highlight=False)


def _ratio(ratio: Mapping[str, Any]) -> str:
    return f"{_number(ratio['median'])}x  ({_number(ratio['low'])} to {_number(ratio['high'])})"


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

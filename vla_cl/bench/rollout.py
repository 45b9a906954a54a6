"""``vla-cl bench rollout|methods``: measure the chosen rows one after another, keep what was measured, show the table.

``outputs/bench/<rollout|methods>.json`` maps row to result; a row that is measured again replaces its own entry only,
and is stored as soon as it is done.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_cl.bench.row import measured
from vla_cl.bench.rows import ROWS, Row, RowSettings, chosen
from vla_cl.bench.table import show
from vla_cl.config.compose import compose
from vla_cl.files import write_json
from vla_cl.run.folder import machine, versions
from vla_cl.types import ConfigurationError


def main(
    overrides: Sequence[str],
    folders: Sequence[Path] = (),
    rows: Mapping[str, Row] = ROWS,
    what: str = "rollout",
) -> tuple[Path, bool]:
    """Measure, store, print.

    Args:
        overrides: Hydra overrides of ``conf/bench.yaml``.
        folders: Further folders of yaml files.
        rows: The rows there are.
        what: Name of the table, and of the file unless the settings name one.

    Returns:
        The file, and whether every row that was measured now reached its goal.

    Raises:
        ConfigurationError: A row does not exist, or the stored file is not one of ours.
    """
    settings = compose(overrides, root="bench", folders=folders)
    names = chosen(settings["rows"], rows)
    path = Path(settings["output"] or f"outputs/bench/{what}.json")
    stored = _stored(path)
    base = RowSettings(
        name="",
        quick=bool(settings["quick"]),
        checkpoint=_folder(settings["checkpoint"], "checkpoint"),
        libero_assets=_folder(settings["libero_assets"], "libero_assets"),
        peer_python=Path(settings["peer_python"]) if settings["peer_python"] else None,
        workspace=Path(),
    )
    for number, name in enumerate(names, start=1):
        row = rows[name]
        expected = "" if base.quick else f", about {row.minutes:g} minutes"
        print(f"row {number} of {len(names)}: {name}{expected}", file=sys.stderr, flush=True)
        stored[name] = _measure(name, row, base, float(settings["row_minutes"]))
        write_json(path, stored)
    show(stored, rows, names, f"vla-cl bench {what}")
    print(f"stored in {path}")
    return path, all(stored[name].get("holds") is not False and "cannot_run" not in stored[name] for name in names)


def _measure(name: str, row: Row, base: RowSettings, minutes: float) -> dict[str, Any]:
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="vla-cl-bench-") as folder:
        result = measured(name, row, replace(base, name=name, workspace=Path(folder)), minutes)
    circumstances = {
        "goal": row.goal,
        "quick": base.quick,
        "took_seconds": round(time.time() - began, 1),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "machine": machine("cpu"),
        "versions": versions(),
    }
    return result | circumstances


def _stored(path: Path) -> dict[str, Any]:
    """What was measured before; nothing if there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is not JSON ({error}); move it away, or set output to another file"
        ) from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} does not map rows to results; move it away, or set output to another file")
    return content


def _folder(value: str | None, name: str) -> Path | None:
    if value is None:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise ConfigurationError(f"{name}={value} is not a folder; give one, or null")
    return folder.resolve()

"""Measures one row in a process of its own: ``python -m vla_cl.bench.row NAME SETTINGS.json RESULT.json``.

So one row's crash, imports and memory do not touch the next, and its thread pools can be set before anything is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from vla_cl.bench.rows import CannotRunError, Result, Row, RowSettings
from vla_cl.envs.rendering import choose_gl_backend
from vla_cl.types import ConfigurationError

_MOMENTS = 60  # of 50 ms

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")


def measured(name: str, row: Row, settings: RowSettings, minutes: float) -> dict[str, Any]:
    """Measure a row; a dictionary like `Result.as_json`, or one with the key ``cannot_run`` and a sentence."""
    inbox, outbox = settings.workspace / "settings.json", settings.workspace / "result.json"
    content = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    inbox.write_text(json.dumps(content))
    temporary = {"TMPDIR": str(settings.workspace)}  # goes with the workspace, even if the row is killed
    environment = {**os.environ, **temporary, **(ONE_THREAD if row.cores == "one" else {})}
    command = [sys.executable, "-m", "vla_cl.bench.row", row.measure, str(inbox), str(outbox)]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = process.wait(60 * minutes)
    except subprocess.TimeoutExpired:
        return {"cannot_run": f"{name} was stopped after {minutes:g} minutes; raise row_minutes"}
    finally:  # Ctrl-C as well: nothing of the row may go on
        _end_group(process)
    if not outbox.is_file():
        return {"cannot_run": f"the process of row {name} ended with status {status} and left no result"}
    result: dict[str, Any] = json.loads(outbox.read_text())
    return result


def main(measure: str, inbox: Path, outbox: Path) -> None:
    """Import the row's function, call it, write what it gives."""
    content = json.loads(inbox.read_text())
    for key in ("checkpoint", "libero_assets", "peer_python", "workspace"):
        content[key] = None if content[key] is None else Path(content[key])
    module, function = measure.split(":")
    choose_gl_backend()  # for the peers as well, before any of them imports MuJoCo
    answer: dict[str, Any]
    try:
        result: Result = getattr(importlib.import_module(module), function)(RowSettings(**content))
        answer = result.as_json()
    except (CannotRunError, ConfigurationError) as error:
        answer = {"cannot_run": str(error)}
    except Exception as error:  # noqa: BLE001 - a broken row must not take the others with it; its traceback is shown
        traceback.print_exc()
        answer = {"cannot_run": f"{type(error).__name__}: {error}"}
    outbox.write_text(json.dumps(answer))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever a row left running: its process group is its own.

    Python's resource tracker is in it and gets a moment, or semaphores would stay behind.
    """
    process.kill()
    with contextlib.suppress(ProcessLookupError):
        for _ in range(_MOMENTS):
            time.sleep(0.05)
            process.poll()
            os.killpg(process.pid, 0)  # raises once nobody is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # peers that free their GL contexts while Python ends complain at length

"""Real commands in processes of their own, and which of their processes are alive."""

import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

TESTS = Path(__file__).parents[1]
MARKER = "VLA_CL_TEST_MARKER"
PATIENCE = 120.0
"""Seconds until a test gives up; nothing is expected to need them."""


def command(*arguments):
    return [sys.executable, "-m", "vla_cl.cli", *map(str, arguments)]


def start(*arguments, **more):
    """Start a command whose processes carry a mark: the process, and the mark."""
    marker = uuid4().hex
    environment = os.environ | {MARKER: marker}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
    return subprocess.Popen(command(*arguments), env=environment, **quiet), marker


def alive(marker):
    """Process ids of the living processes that carry a mark; the dead whom nobody has buried do not count."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARKER}={marker}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if marked and (folder / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def wait_until(condition, patience=PATIENCE):
    """Wait for something; says how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience, "it never came"
        time.sleep(0.02)
    return time.monotonic() - began

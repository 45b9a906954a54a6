"""How long it takes until ``vla-cl --help`` has printed."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STARTUP_LIMIT = 0.5  # seconds
REPEATS = 10


def startup(overrides: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """Seconds for ``vla-cl --help`` in a new process, median of ten."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "vla_cl.cli", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    return {"median_seconds": round(median, 3), "limit_seconds": STARTUP_LIMIT, "holds": median < STARTUP_LIMIT}

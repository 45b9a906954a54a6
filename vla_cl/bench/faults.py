"""Row: 200 faults in one evaluation. Its table is the undisturbed one, hangs are found in time, nothing is left."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil

from vla_cl.bench.counting_suite import FAULTS, PLACES, CountingPolicy, CountingSuite
from vla_cl.bench.episodes import Row, differing, table_row
from vla_cl.bench.measuring import say
from vla_cl.bench.rows import Figure, Gate, Result, RowSettings
from vla_cl.types import EpisodeRequest

DEADLINE = 3.0  # seconds; a worker must start within it
TOLERATED = 2.0  # seconds after the deadline
WORKERS = 4


def faults(settings: RowSettings) -> Result:
    """Half of the episodes break their worker, each in one of four ways at one of three places."""
    count = 4 if settings.quick else 200
    plain = CountingSuite(_made(settings.workspace / "plain"))
    tasks = plain.tasks()
    requests = [EpisodeRequest(tasks[number % len(tasks)], "report", number) for number in range(2 * count)]
    random = np.random.default_rng(0)
    chosen = random.permutation(len(requests))[:count]
    planned = {
        (requests[position].task.name, requests[position].initial_state): (
            FAULTS[number % len(FAULTS)], PLACES[number // len(FAULTS) % len(PLACES)],
        )
        for number, position in enumerate(chosen)
    }  # fmt: skip
    broken = CountingSuite(_made(settings.workspace / "broken"), planned)
    say("undisturbed")
    reference, quiet_seconds = _rolled_out(plain, requests)
    before = Resources.now()
    say(f"{count} faults")
    with HangWatch(broken.folder) as watch:
        table, seconds = _rolled_out(broken, requests)
    after = Resources.now()
    happened = Counter(note.read_text().split()[0] for note in broken.folder.glob("fault-*"))
    return _result(count, happened, differing(table, reference), before.leaked(after), watch.latencies, {
        "with faults": seconds, "undisturbed": quiet_seconds,
    })  # fmt: skip


def _result(
    count: int,
    happened: Counter[str],
    different: int,
    leaks: dict[str, int],
    latencies: list[float],
    seconds: dict[str, float],
) -> Result:
    late = max(latencies, default=0.0)
    leaked = sum(leaks.values())
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(happened.items()))
    complete = happened.total() == count and len(latencies) == happened["stop"]
    detail = f"{2 * count} episodes; {kinds}; {different} rows differ; {len(latencies)} hangs observed"
    gate = Gate("episode table of an undisturbed evaluation", complete and not different, detail)
    return Result(
        compares=f"{count} faults in one evaluation of {2 * count} episodes, {WORKERS} workers",
        gate=gate,
        ratio=None,
        figures=[
            Figure("rows that differ", different, f"of {2 * count}"),
            Figure("hang found after its deadline", round(max(0.0, late - DEADLINE), 2), "s at worst"),
            Figure("left behind", leaked, "processes, threads, shared memory, file descriptors"),
        ],
        holds=gate.passed and late - DEADLINE <= TOLERATED and not leaked,
        profile={name: f"{value:.1f} s" for name, value in seconds.items()},
        notes="" if not leaked else f"Left behind: {leaks}.",
    )


def _rolled_out(suite: CountingSuite, requests: list[EpisodeRequest]) -> tuple[list[Row], float]:
    from vla_cl.rollout.engine import Engine

    began = time.perf_counter()
    with Engine(suite, WORKERS, 2, replan_every=8, deadline=DEADLINE) as engine:
        table = [table_row(episode) for episode in engine.run(CountingPolicy(), requests, progress=False)]
    return table, time.perf_counter() - began


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class Resources:
    """What a process holds of the system."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    @classmethod
    def now(cls) -> Resources:
        """Of this process; garbage is collected first."""
        gc.collect()
        me = psutil.Process()
        return cls({
            "processes": len(me.children(recursive=True)),
            "threads": threading.active_count(),
            "shared memory": len(list(Path("/dev/shm").iterdir())),
            "file descriptors": me.num_fds(),
        })  # fmt: skip

    def leaked(self, later: Resources) -> dict[str, int]:
        """What there is more of."""
        grown = {name: later._counts[name] - count for name, count in self._counts.items()}
        return {name: number for name, number in grown.items() if number > 0}


class HangWatch:
    """Notes how long after it stopped itself each hanging worker was gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.latencies: list[float] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        stopped: dict[int, float] = {}
        seen: set[str] = set()
        while not self._over.wait(0.02):
            for note in self._folder.glob("fault-*"):
                words = note.read_text().split() if note.name not in seen else []
                if len(words) == 3:
                    seen.add(note.name)
                    if words[0] == "stop":
                        stopped[int(words[1])] = float(words[2])
            for pid in [pid for pid in stopped if not _lives(pid)]:
                self.latencies.append(time.monotonic() - stopped.pop(pid))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False

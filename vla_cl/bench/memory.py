"""Rows: memory of one further environment with pictures, against one further worker of LeRobot's.

Memory is the proportional set size: private pages, and of shared ones the process's share, so sums over processes count
nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from vla_cl.bench.costs import alone
from vla_cl.bench.measuring import say
from vla_cl.bench.rows import Figure, Ratio, Result, RowSettings
from vla_cl.bench.suites import libero_suite, metaworld_suite, robosuite_suite
from vla_cl.interfaces import Environment, Suite
from vla_cl.types import Task

GOAL = 5.0
MEBIBYTE = 2**20


def metaworld(settings: RowSettings) -> Result:
    """480 pixels, as LeRobot's wrapper draws."""
    suite = metaworld_suite(480, "reference")
    task = next(task for task in suite.tasks() if task.name == "drawer-open")
    return _compare("Meta-World at 480 pixels", suite, task, metaworld_workers, settings)


def robosuite(settings: RowSettings) -> Result:
    """Two cameras; LeRobot has no wrapper."""
    suite = robosuite_suite(256, "reference")
    task = next(task for task in suite.tasks() if task.name == "pick-place-can")
    return _compare("robosuite, two cameras at 256 pixels", suite, task, None, settings)


def libero(settings: RowSettings) -> Result:
    """Two cameras, as LeRobot's wrapper draws."""
    suite = libero_suite("libero_object", settings, 256, "reference")
    return _compare("LIBERO, two cameras at 256 pixels", suite, suite.tasks()[0], libero_workers, settings)


def _compare(
    title: str,
    suite: Suite,
    task: Task,
    peer: Callable[[int], list[Callable[[], Any]]] | None,
    settings: RowSettings,
) -> Result:
    count = 2 if settings.quick else 4
    say("ours")
    steady, peak = alone(our_growth, suite, task, count, environment={"LP_NUM_THREADS": "1"})
    figures = [
        Figure("ours", round(steady / MEBIBYTE, 1), "MiB"),
        Figure("ours, peak", round(peak / MEBIBYTE, 1), "MiB"),
    ]
    found = None
    if peer is not None:
        say("LeRobot's workers")
        theirs = [_stock_memory(peer(number)) for number in ((1, 2) if settings.quick else (1, 2, 3))]
        growth = float(np.mean(np.diff(theirs)))
        figures.append(Figure("one more AsyncVectorEnv worker", round(growth / MEBIBYTE, 1), "MiB"))
        times = round(growth / peak, 2)
        found = Ratio(times, times, times, 1)
    return Result(
        compares=f"{title}: memory of one further environment in a worker process",
        gate=None,
        ratio=found,
        figures=figures,
        holds=None if found is None else found.median >= GOAL,
        notes="The ratio is the peer's memory to our peak.",
    )


def our_growth(suite: Suite, task: Task, count: int) -> tuple[float, float]:
    """Bytes per further environment of this process: when all are built and have drawn, and at the worst moment."""
    state = suite.initial_states("report", 1)[0]
    environments: list[Environment] = []

    def build() -> None:
        environments.append(suite.make_environment(task))
        environments[-1].reset(state)
        environments[-1].observe()
        environments[-1].step(np.zeros(suite.spec.action_size, dtype=np.float32))
        environments[-1].observe()

    build()
    steady, peak = proportional_set_size(), _peak()
    for _ in range(count):
        build()
    for environment in environments:
        environment.observe()
    growth = (proportional_set_size() - steady) / count
    peak_growth = (_peak() - peak) / count
    for environment in environments:
        environment.close()
    return growth, max(growth, peak_growth)


def proportional_set_size(pid: int | str = "self") -> int:
    """Of a process, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's proportional set size")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's peak memory")


def metaworld_workers(count: int) -> list[Callable[[], Any]]:
    """Factories of LeRobot's Meta-World environment."""
    from lerobot.envs.metaworld import MetaworldEnv

    return [partial(MetaworldEnv, task="drawer-open-v3", obs_type="pixels_agent_pos")] * count


def libero_workers(count: int) -> list[Callable[[], Any]]:
    """Factories of LeRobot's LIBERO environment."""
    from lerobot.envs.libero import LiberoEnv
    from libero.libero import benchmark

    suite = benchmark.get_benchmark_dict()["libero_object"]()
    size = {"observation_width": 256, "observation_height": 256}
    return [partial(LiberoEnv, suite, 0, "libero_object", obs_type="pixels_agent_pos", **size)] * count


def _stock_memory(factories: list[Callable[[], Any]]) -> int:
    """Bytes of the processes that step LeRobot's environments, after a reset and a step."""
    from lerobot.envs.utils import _LazyAsyncVectorEnv

    environments = _LazyAsyncVectorEnv(factories)
    try:
        environments.reset(seed=[1000 + index for index in range(len(factories))])
        shape = environments.single_action_space.shape
        environments.step(np.zeros((len(factories), *shape), dtype=np.float32))
        time.sleep(0.2)
        children = psutil.Process().children(recursive=True)
        return sum(proportional_set_size(child.pid) for child in children if child.is_running())
    finally:
        environments.close()

"""What one picture, one env step, one reset and one decision cost, each alone: the parts of a profile."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_cl.interfaces import Suite
from vla_cl.types import Task

_REPEATS = 5


@dataclass(frozen=True)
class Costs:
    """Seconds of one core.

    Attributes:
        reset: A reset.
        observe: All cameras and the state.
        step: An env step, in chunks of ``replan_every``.
        act: A decision for one observation.
    """

    reset: float
    observe: float
    step: float
    act: float


def measured_costs(
    suite: Suite, task: Task, initial_state: int, checkpoint: Path, call_size: int, replan_every: int
) -> Costs:
    """Measure in a new process with one thread, as a worker is."""
    arguments = (suite, task, initial_state, checkpoint, call_size, replan_every)
    return alone(_measure, *arguments, environment={"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})


def alone[Answer](function: Callable[..., Answer], *arguments: object, environment: Mapping[str, str] = {}) -> Answer:
    """Call a function in a new process; the environment variables are set before it imports anything."""
    with _variables(environment), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


@contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _measure(
    suite: Suite, task: Task, initial_state: int, checkpoint: Path, call_size: int, replan_every: int
) -> Costs:
    import torch

    from vla_cl.models.vla import VlaModel

    torch.set_num_threads(1)
    policy = VlaModel.load(checkpoint, "cpu")
    environment = suite.make_environment(task)
    environment.reset(initial_state)
    observation = environment.observe()
    chunk = policy.act([observation] * call_size)[0, :replan_every]
    reset = seconds_of(lambda: environment.reset(initial_state))
    observe = seconds_of(environment.observe)
    act = seconds_of(lambda: policy.act([observation] * call_size)) / call_size
    environment.reset(initial_state)
    step = seconds_of(lambda: list(environment.execute(chunk)), repeats=2) / len(chunk)
    environment.close()
    return Costs(reset, observe, step, act)


def seconds_of(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Median wall time of a call."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))

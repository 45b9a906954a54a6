"""A suite without a simulator for rows about the engine itself: counts its steps, ends early, and breaks on command.

In a module of its own, because worker processes import it. Faults and steps are noted as files in a folder, the only
thing that all processes and their replacements share.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Environment, Policy, Suite
from vla_cl.types import Batch, Draw, InterfaceSpec, Observation, Split, SuiteSpec, Task, Transition

CAMERA = "observation.image"
MAX_STEPS = 60
CHUNK_SIZE = 10
FAULTS = ("kill", "stop", "segfault", "memory")
PLACES = ("reset", "step", "observe")
_SIZE = 16
_PRIME = 1009
_SHORTEST = 11  # env steps; every episode is observed again, so that each fault finds its place
_SPARE_BYTES = 1 << 24  # address space that a process keeps beyond what it has when its memory is limited


class CountingSuite(Suite):
    """Three tasks. Odd initial states end in success, each at its own step; even ones run until the time limit."""

    name = "counting"

    def __init__(self, folder: Path, faults: Mapping[tuple[str, int], tuple[str, str]] | None = None) -> None:
        """Declare the suite.

        Args:
            folder: Where steps and faults are noted.
            faults: Task name and initial state to a kind of `FAULTS` and a place of `PLACES`; each happens once.
        """
        self.folder = folder
        self.faults = dict(faults or {})

    @property
    def spec(self) -> SuiteSpec:
        """One small camera, two state entries, two action entries."""
        return SuiteSpec(
            {CAMERA: (_SIZE, _SIZE)}, 2, 2, "fast", fps=30, action_low=(-1.0, -1.0), action_high=(1.0, 1.0)
        )

    def tasks(self) -> Sequence[Task]:
        """The three tasks."""
        return [Task(f"{self.name}/{name}", f"count {name}", MAX_STEPS) for name in ("up", "down", "twice")]

    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """From 0 on."""
        return range(count)

    def make_environment(self, task: Task) -> CountingEnvironment:
        """Build a world."""
        return CountingEnvironment(self, task)

    def fall(self, task: Task, initial_state: int, place: str) -> None:
        """Break here and now if that was asked for and has not happened yet."""
        kind, where = self.faults.get((task.name, initial_state), ("", ""))
        if where != place:
            return
        note = self.folder / f"fault-{task.name}-{initial_state}"
        try:
            handle = os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(handle, f"{kind} {os.getpid()} {time.monotonic()}".encode())
        os.close(handle)
        break_process(kind)


class CountingEnvironment(Environment):
    """A point that moves as the actions say."""

    def __init__(self, suite: CountingSuite, task: Task) -> None:
        self._suite, self._task = suite, task
        self._notes = os.open(suite.folder / "steps", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def reset(self, initial_state: int) -> None:
        """Start from a state."""
        self._suite.fall(self._task, initial_state, "reset")
        self._state, self._steps = initial_state, 0
        self._position = np.random.default_rng(initial_state).uniform(-1, 1, 2)

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Move, and note that a step was executed."""
        os.write(self._notes, b".")
        self._steps += 1
        if self._steps == 1 + self._state % 7:
            self._suite.fall(self._task, self._state, "step")
        self._position = np.clip(self._position + 0.1 * action.astype(np.float64), -1, 1)
        last = _SHORTEST + self._state * _PRIME % (MAX_STEPS - _SHORTEST - 5)
        success = self._state % 2 == 1 and self._steps >= last
        return Transition(float(self._position.sum()), success, success or self._steps >= self._task.max_steps)

    def observe(self) -> Observation:
        """Draw where the point is."""
        if self._steps > 0:
            self._suite.fall(self._task, self._state, "observe")
        picture = np.full((_SIZE, _SIZE, 3), 7, dtype=np.uint8)
        picture[0, :2, 0] = np.round((self._position + 1) * 127)
        return Observation({CAMERA: picture}, self.state(), self._task.instruction)

    def state(self) -> NDArray[np.float32]:
        """Where the point is."""
        return self._position.astype(np.float32)

    def film(self) -> NDArray[np.uint8]:
        """The same as the policy sees."""
        return self.observe().images[CAMERA].copy()

    def close(self) -> None:
        """Nothing to free but the file."""
        os.close(self._notes)


class CountingPolicy(Policy):
    """Actions are a function of picture and state."""

    @property
    def spec(self) -> InterfaceSpec:
        """The suite's."""
        return InterfaceSpec({CAMERA: (_SIZE, _SIZE)}, 2, 2, "fast")

    @property
    def chunk_size(self) -> int:
        """`CHUNK_SIZE`."""
        return CHUNK_SIZE

    def act(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """Chunks, shape (B, CHUNK_SIZE, 2)."""
        return np.stack([self._chunk(observation) for observation in observations])

    @staticmethod
    def _chunk(observation: Observation) -> NDArray[np.float32]:
        seed = [int(observation.images[CAMERA].sum()), *observation.state.view(np.uint32).tolist()]
        return np.random.default_rng(seed).normal(0, 1, (CHUNK_SIZE, 2)).astype(np.float32)

    @property
    def module(self) -> Any:  # noqa: ANN401 - there is none
        """There is none."""
        raise NotImplementedError

    @property
    def device(self) -> Any:  # noqa: ANN401 - there is none
        """There is none."""
        raise NotImplementedError

    def loss(self, batch: Batch, draw: Draw) -> Any:  # noqa: ANN401 - nothing is learnt
        """Nothing is learnt."""
        raise NotImplementedError

    def features(self, batch: Batch) -> Any:  # noqa: ANN401 - nothing is learnt
        """Nothing is learnt."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Nothing is learnt."""
        raise NotImplementedError


def break_process(kind: str) -> None:
    """Do what befalls workers.

    Args:
        kind: One of `FAULTS`: killed, stopped (as by a debugger), a segmentation fault, a memory limit.
    """
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "segfault":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "memory":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        np.ones(4 * _SPARE_BYTES)

"""Environments that wait for their next episode, within a budget of memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import psutil

from vla_cl.interfaces import Environment, Suite
from vla_cl.types import Task

MEBIBYTE = 2**20


class EnvironmentPool:
    """Environments that are not in use, kept for the next episode of their task: building one can take seconds."""

    def __init__(
        self, suite: Suite, capacity: int | None, memory: int, resident: Callable[[], int] | None = None
    ) -> None:
        """An empty pool.

        Args:
            suite: Builds the environments.
            capacity: Environments kept at most; None for as many as the memory holds.
            memory: Bytes that the process may occupy while it keeps environments that nobody uses.
            resident: Bytes that the process occupies; by default as the operating system says.
        """
        self._suite = suite
        self._capacity = capacity
        self._memory = memory
        self._resident = resident or (lambda: int(psutil.Process().memory_info().rss))
        self._idle: deque[tuple[str, Environment]] = deque()  # least recently used first

    @property
    def idle_tasks(self) -> tuple[str, ...]:
        """The task id of each environment held."""
        return tuple(task_id for task_id, _ in self._idle)

    def take(self, task: Task) -> Environment:
        """An environment of this task: one that is held, or a new one, for which others may have to go."""
        for entry in self._idle:
            if entry[0] == task.id:
                self._idle.remove(entry)
                return entry[1]
        self._shrink()
        return self._suite.make_environment(task)

    def give_back(self, task: Task, environment: Environment) -> None:
        """Keep an environment; beyond capacity or memory, the ones unused for longest are closed."""
        self._idle.append((task.id, environment))
        self._shrink()

    def close(self) -> None:
        """Close every environment held."""
        while self._idle:
            self._idle.popleft()[1].close()

    def _shrink(self) -> None:
        while self._idle and self._too_much():
            self._idle.popleft()[1].close()
            _return_memory()

    def _too_much(self) -> bool:
        full = self._capacity is not None and len(self._idle) > self._capacity
        return full or self._resident() > self._memory


def available_memory() -> int:
    """Bytes that new processes may fill: what the machine has left, or the container's limit if that is tighter."""
    available = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        available = min(available, int(text) - int(used.read_text()))
    return max(available, 0)


def _return_memory() -> None:
    """Hand freed memory to the operating system; the allocator would keep it, and the budget would never be met."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)

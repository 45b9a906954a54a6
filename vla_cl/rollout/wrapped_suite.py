"""Suites and environments that wrap another: everything is passed on, and a subclass changes what it is there for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.types import Observation, Split, SuiteSpec, Task, Transition


class WrappedSuite(Suite):
    """A suite that is another one, in everything that a subclass does not override.

    Args:
        suite: The suite that is wrapped.
    """

    def __init__(self, suite: Suite) -> None:
        self.name = suite.name
        self._suite = suite

    @property
    def spec(self) -> SuiteSpec:
        """The suite's."""
        return self._suite.spec

    def tasks(self) -> Sequence[Task]:
        """The suite's."""
        return self._suite.tasks()

    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """The suite's."""
        return self._suite.initial_states(split, count)

    def make_environment(self, task: Task) -> Environment:
        """The suite's."""
        return self._suite.make_environment(task)

    def make_expert(self, task: Task) -> Expert:
        """The suite's."""
        return self._suite.make_expert(task)

    def fingerprint(self) -> Mapping[str, object]:
        """The suite's."""
        return self._suite.fingerprint()


class WrappedEnvironment(Environment):
    """An environment that is another one, in everything that a subclass does not override.

    `execute` stays the interface's own: it takes one `step` of the subclass after another.

    Args:
        environment: The environment that is wrapped.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def reset(self, initial_state: int) -> None:
        """Start an episode."""
        self._environment.reset(initial_state)

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Execute one action, shape (A,)."""
        return self._environment.step(action)

    def observe(self) -> Observation:
        """Render every camera and read the state."""
        return self._environment.observe()

    def state(self) -> NDArray[np.float32]:
        """Proprioception, shape (S,)."""
        return self._environment.state()

    def film(self) -> NDArray[np.uint8]:
        """A picture for people."""
        return self._environment.film()

    def close(self) -> None:
        """Free the simulator and its renderer."""
        self._environment.close()

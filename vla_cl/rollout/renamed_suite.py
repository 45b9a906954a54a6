"""A suite whose cameras are chosen and renamed, so that a policy that knows them by other names can act in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.cameras import Pairs
from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.types import Observation, Split, SuiteSpec, Task, Transition


class RenamedSuite(Suite):
    """A suite under other camera names; in everything else it is the suite that it wraps.

    Args:
        suite: The suite.
        cameras: The policy's name of a camera and the suite's; other cameras are not shown.
    """

    def __init__(self, suite: Suite, cameras: Pairs) -> None:
        self.name = suite.name
        self._suite = suite
        self._cameras = cameras

    @property
    def spec(self) -> SuiteSpec:
        """The suite's, with the chosen cameras."""
        spec = self._suite.spec
        return replace(spec, cameras={new: spec.cameras[old] for new, old in self._cameras})

    def tasks(self) -> Sequence[Task]:
        """The suite's."""
        return self._suite.tasks()

    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """The suite's."""
        return self._suite.initial_states(split, count)

    def make_environment(self, task: Task) -> Environment:
        """The suite's, with its observations renamed."""
        return _RenamedEnvironment(self._suite.make_environment(task), self._cameras)

    def make_expert(self, task: Task) -> Expert:
        """An expert of the suite would meet an environment that is not its own.

        Raises:
            ConfigurationError: Always; record demonstrations in the suite itself.
        """
        return super().make_expert(task)

    def fingerprint(self) -> Mapping[str, object]:
        """The suite's, and what its cameras are called here."""
        return {**self._suite.fingerprint(), "cameras_shown": [list(pair) for pair in self._cameras]}


class _RenamedEnvironment(Environment):
    def __init__(self, environment: Environment, cameras: Pairs) -> None:
        self._environment = environment
        self._cameras = cameras

    def reset(self, initial_state: int) -> None:
        self._environment.reset(initial_state)

    def step(self, action: NDArray[np.float32]) -> Transition:
        return self._environment.step(action)

    def execute(self, actions: NDArray[np.float32]) -> Iterable[Transition]:
        return self._environment.execute(actions)

    def observe(self) -> Observation:
        seen = self._environment.observe()
        return replace(seen, images={new: seen.images[old] for new, old in self._cameras})

    def state(self) -> NDArray[np.float32]:
        return self._environment.state()

    def film(self) -> NDArray[np.uint8]:
        return self._environment.film()

    def close(self) -> None:
        self._environment.close()

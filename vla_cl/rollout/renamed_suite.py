"""A suite whose cameras are chosen and renamed, so that a policy that knows them by other names can act in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.cameras import Pairs
from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.rollout.wrapped_suite import WrappedEnvironment, WrappedSuite
from vla_cl.types import Observation, SuiteSpec, Task, Transition


class RenamedSuite(WrappedSuite):
    """A suite under other camera names; in everything else it is the suite that it wraps.

    Args:
        suite: The suite.
        cameras: The policy's name of a camera and the suite's; other cameras are not shown.
    """

    def __init__(self, suite: Suite, cameras: Pairs) -> None:
        super().__init__(suite)
        self._cameras = cameras

    @property
    def spec(self) -> SuiteSpec:
        """The suite's, with the chosen cameras."""
        spec = self._suite.spec
        return replace(spec, cameras={new: spec.cameras[old] for new, old in self._cameras})

    def make_environment(self, task: Task) -> Environment:
        """The suite's, with its observations renamed."""
        return _RenamedEnvironment(self._suite.make_environment(task), self._cameras)

    def make_expert(self, task: Task) -> Expert:
        """An expert of the suite would meet an environment that is not its own.

        Raises:
            ConfigurationError: Always; record demonstrations in the suite itself.
        """
        return Suite.make_expert(self, task)

    def fingerprint(self) -> Mapping[str, object]:
        """The suite's, and what its cameras are called here."""
        return {**self._suite.fingerprint(), "cameras_shown": [list(pair) for pair in self._cameras]}


class _RenamedEnvironment(WrappedEnvironment):
    def __init__(self, environment: Environment, cameras: Pairs) -> None:
        super().__init__(environment)
        self._cameras = cameras

    def execute(self, actions: NDArray[np.float32]) -> Iterable[Transition]:
        return self._environment.execute(actions)

    def observe(self) -> Observation:
        seen = self._environment.observe()
        return replace(seen, images={new: seen.images[old] for new, old in self._cameras})

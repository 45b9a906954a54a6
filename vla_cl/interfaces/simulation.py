"""A simulator: environments, experts, and the suite that makes them.

Simulator workers import this module and must start quickly: no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_cl.types import ConfigurationError, Observation, Split, SuiteSpec, Task, Transition


class Environment(ABC):
    """One simulated world for one task. Made and used inside one process."""

    @abstractmethod
    def reset(self, initial_state: int) -> None:
        """Start an episode from a numbered initial state: the same number gives the same world, bit for bit."""

    @abstractmethod
    def step(self, action: NDArray[np.float32]) -> Transition:
        """Execute one action, shape (A,), without rendering."""

    def execute(self, actions: NDArray[np.float32]) -> Iterable[Transition]:
        """Execute actions, shape (K, A), one transition each, until they are used up or the episode has ended.

        A simulator that is faster when it is given many actions at once overrides this; the transitions are those of
        `step`, one after another. After the episode's end the world may stand where the rest of the actions led.
        """
        for action in actions:
            transition = self.step(action)
            yield transition
            if transition.ended or transition.success:
                return

    @abstractmethod
    def observe(self) -> Observation:
        """Render every camera and read the state."""

    @abstractmethod
    def state(self) -> NDArray[np.float32]:
        """Proprioception, shape (S,), without rendering."""

    @abstractmethod
    def film(self) -> NDArray[np.uint8]:
        """A picture for people, uint8 (H, W, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Free the simulator and its renderer."""


class Expert(ABC):
    """A scripted or privileged policy that demonstrates a task."""

    @abstractmethod
    def act(self, environment: Environment) -> NDArray[np.float32]:
        """The action for the environment's present state, shape (A,), inside the action range."""


class Suite(ABC):
    """Tasks that share simulator, observation and action spaces; has no order.

    Constructing a suite imports no simulator; `make_environment` and `make_expert` do. It can be sent to a worker.
    """

    name: str

    @property
    @abstractmethod
    def spec(self) -> SuiteSpec:
        """Cameras, sizes, action range, render profile."""

    @abstractmethod
    def tasks(self) -> Sequence[Task]:
        """Every task."""

    @abstractmethod
    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """The first ``count`` initial states of a split; the three splits never share one.

        Raises:
            ConfigurationError: The suite has fewer.
        """

    @abstractmethod
    def make_environment(self, task: Task) -> Environment:
        """Build the world of a task."""

    def make_expert(self, task: Task) -> Expert:
        """The task's scripted expert, for suites that have them."""
        raise ConfigurationError(
            f"suite {self.name!r} has no scripted experts (asked for {task.id}); give a stream of recorded datasets"
        )

    def fingerprint(self) -> Mapping[str, object]:
        """All that decides what a recorded episode looks like: versions of the simulator, cameras, render profile."""
        spec = self.spec
        return {"suite": self.name, "cameras": dict(spec.cameras), "render_profile": spec.render_profile}

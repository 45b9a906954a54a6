"""No simulator: what ``suite=none`` means, for the datasets of a real robot. Policies are learnt, not rolled out."""

from __future__ import annotations

from collections.abc import Sequence

from vla_cl.interfaces import Environment, Suite
from vla_cl.types import ConfigurationError, Split, SuiteSpec, Task

_REMEDY = "name a suite, for example suite=metaworld, whose tasks have the same instructions as the data"


class NoSuite(Suite):
    """A suite without tasks."""

    name = "none"

    @property
    def spec(self) -> SuiteSpec:
        """Nothing is offered."""
        return SuiteSpec(cameras={}, state_size=0, action_size=0)

    def tasks(self) -> Sequence[Task]:
        """None."""
        return ()

    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """There are none.

        Raises:
            ConfigurationError: Always.
        """
        raise self._refusal()

    def make_environment(self, task: Task) -> Environment:
        """There is none.

        Raises:
            ConfigurationError: Always.
        """
        raise self._refusal()

    def _refusal(self) -> ConfigurationError:
        return ConfigurationError(f"suite=none has no simulator, so nothing can be rolled out; {_REMEDY}")

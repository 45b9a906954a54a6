"""What methods share that treat the first tasks of a stream differently from the later ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from vla_cl.interfaces import Data, Method
from vla_cl.methods.saved_state import TASKS_LEARNT, require_keys, whole_number
from vla_cl.trust.text import counted
from vla_cl.types import ConfigurationError, Experience


class TaskCountingMethod(Method):
    """A method that knows how many tasks it has learnt, after a resume too; that number is its whole state."""

    tasks_learnt: int = 0

    from_task: int = 2
    """The first task that is edited, counted from 1."""

    @property
    def works_alone(self) -> bool:
        """Where the first task is edited too."""
        return self.acts and self.from_task <= 1

    def require_length(self, experiences: int) -> None:
        """Refuse a stream that ends before the first task that is edited.

        A stream of one experience may grow, so there the second may be the first that is edited.

        Raises:
            ConfigurationError: It does.
        """
        if self.from_task > max(experiences, 2):
            raise ConfigurationError(
                f"method.from_task is {self.from_task}, but the stream has {counted(experiences, 'experience')}, so "
                f"method {self.name!r} would change nothing; lower method.from_task, or use method=sequential"
            )

    def end_task(self, experience: Experience, data: Data) -> None:
        """One task more has been learnt."""
        self.tasks_learnt += 1

    def extra_state(self) -> dict[str, object]:
        """How many tasks have been learnt."""
        return {TASKS_LEARNT: self.tasks_learnt}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Count on from there.

        Raises:
            ValueError: The checkpoint holds tensors, or no number of tasks.
        """
        if state:
            raise ValueError(
                f"{type(self).__name__} keeps only the number of tasks learnt, but the checkpoint holds "
                f"{sorted(state) + sorted(extra)}"
            )
        require_keys(type(self).__name__, extra, [TASKS_LEARNT])
        self.tasks_learnt = whole_number(TASKS_LEARNT, extra[TASKS_LEARNT])

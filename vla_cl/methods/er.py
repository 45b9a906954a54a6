"""Experience replay (ER): learn from remembered samples beside the new ones.

Chaudhry et al., "On tiny episodic memories in continual learning", arXiv 1902.10486; for robots as in LIBERO (Liu et
al., NeurIPS 2023): a fixed number of samples per past task, drawn uniformly, as many as new ones in each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, cast

from torch import Tensor

from vla_cl.interfaces import Data, Method
from vla_cl.memory.mixing import added, replaced
from vla_cl.memory.sample_memory import SELECTIONS, SampleMemory, Selection
from vla_cl.types import Batch, ConfigurationError, Experience

Mixing = Literal["added", "replaced"]
MIXINGS: tuple[Mixing, ...] = ("added", "replaced")


class ExperienceReplay(Method):
    """Replay of raw samples.

    Args:
        samples_per_task: Samples kept of each past task (LIBERO: 1000).
        mixing: ``added``: remembered samples come on top of the batch (LIBERO: 1:1, so twice the computation);
            ``replaced``: they take the place of current ones, at the cost of a plain step.
        share: Remembered samples per sample of the batch that the loop hands over; 1.0 with ``added`` is LIBERO's 1:1.
        selection: Which samples are kept; ``first`` is LIBERO's rule.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "er"

    def __init__(
        self,
        samples_per_task: int = 1000,
        mixing: Mixing = "added",
        share: float = 1.0,
        selection: Selection = "uniform",
    ) -> None:
        if samples_per_task < 1:
            raise ConfigurationError(f"method.samples_per_task must be at least 1; got {samples_per_task}")
        if mixing not in MIXINGS:
            raise ConfigurationError(f"method.mixing must be one of {', '.join(MIXINGS)}; got {mixing!r}")
        if selection not in SELECTIONS:
            raise ConfigurationError(f"method.selection must be one of {', '.join(SELECTIONS)}; got {selection!r}")
        limit = 1.0 if mixing == "replaced" else 8.0
        if not 0 < share <= limit:
            raise ConfigurationError(f"method.share must be above 0 and at most {limit} with {mixing!r}; got {share}")
        self.mixing = mixing
        self.share = share
        self.memory = SampleMemory(samples_per_task, selection)

    def compose(self, batch: Batch, step: int) -> Batch:
        """Mix remembered samples in, once there are any."""
        if not len(self.memory):
            return batch
        count = max(1, round(self.share * len(batch["task"])))
        remembered = self.memory.sample(count, self.train_seed, step)
        return added(batch, remembered) if self.mixing == "added" else replaced(batch, remembered)

    def end_task(self, experience: Experience, data: Data) -> None:
        """Remember samples of what was just learnt."""
        self.memory.remember(experience, data, self.train_seed)

    def memory_bytes(self) -> int:
        """Bytes of the remembered samples, raw."""
        return self.memory.memory_bytes()

    def extra_state(self) -> dict[str, object]:
        """Which rows are remembered."""
        return {"memory": self.memory.index()}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Remember the same rows again."""
        self.memory.restore(cast(Mapping[str, list[int]], extra["memory"]), past)

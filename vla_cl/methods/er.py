"""Experience replay (ER): learn from remembered samples beside the new ones.

Chaudhry et al., "On tiny episodic memories in continual learning", arXiv 1902.10486; for robots as in LIBERO (Liu et
al., NeurIPS 2023): a fixed number of samples per past task, drawn uniformly, as many as new ones in each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vla_cl.memory.mixing import MIXINGS, Mixing, Mixture, union_losses
from vla_cl.memory.replay_memory import Selection
from vla_cl.methods.checked_settings import refuse_idle
from vla_cl.methods.remembering import RememberingMethod, make_memory
from vla_cl.types import Batch, Draw, MethodCard


class ReplayMethod(RememberingMethod):
    """What methods share that learn from remembered samples: a memory, and how it is mixed into the batches.

    Args:
        samples_per_task: Samples kept of each past task.
        mixing: How remembered samples enter a batch, see `vla_cl.memory.mixing.Mixture`.
        share: How many of them.
        selection: Which samples are kept.
        memory: In place of ``samples_per_task``, see `make_memory`.
        mixings: The kinds of mixing that the method can do.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    def __init__(
        self,
        samples_per_task: int,
        mixing: Mixing,
        share: float,
        selection: Selection,
        memory: Mapping[str, Any] | None = None,
        mixings: Sequence[Mixing] = MIXINGS,
    ) -> None:
        if memory is not None:
            refuse_idle(type(self), {"samples_per_task": samples_per_task}, "memory", memory)
        self.memory = make_memory(samples_per_task, selection, memory)
        self.mixture = Mixture(mixing, share, mixings)
        self.mixing = mixing
        self.share = share
        if share:
            self.memory.require_pictures()

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.mixture.share > 0

    @property
    def replays(self) -> bool:
        """Whether there is something to replay."""
        return len(self.memory) > 0 and self.mixture.share > 0

    def remembered_count(self, batch: Batch, step: int) -> int:
        """How many remembered samples this step learns from; 0 as long as there are none."""
        if not self.replays:
            return 0
        return self.mixture.count(len(batch["task"]), self.train_seed, step)


class ExperienceReplay(ReplayMethod):
    """Replay of raw samples.

    With ``coin_flip`` a step learns either from current samples or from remembered ones, as ContinualVLA does with a
    probability of 0.2. The number of steps stays what ``training.steps`` says: it is not scaled by 1 / (1 - p), so that
    a task's own samples are seen (1 - p) times as often as without replay, as they are with ``replaced``.

    Args:
        samples_per_task: Samples kept of each past task (LIBERO: 1000).
        mixing: ``added``: remembered samples come on top of the batch (LIBERO: 1:1, so twice the computation);
            ``replaced``: they take the place of current ones, at the cost of a plain step; ``coin_flip``: some steps
            have only remembered samples, at the cost of a plain step.
        share: Remembered samples per sample of the batch that the loop hands over; 1.0 with ``added`` is LIBERO's 1:1.
            With ``coin_flip`` the probability of a step that only remembers. 0 is sequential fine-tuning.
        selection: Which samples are kept; ``first`` is LIBERO's rule.
        memory: In place of ``samples_per_task``, see `make_memory`.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "er"
    card = MethodCard(
        title="Experience replay (ER)",
        paradigm="replay",
        equation=r"\mathbb{E}_{x \sim D_t \cup M}\left[\ell(\theta; x)\right]",
        source="Chaudhry et al. 2019, arXiv 1902.10486; Liu et al., NeurIPS 2023, arXiv 2306.03310",
        step="1 + share if added, else 1",
        memory="samples",
        follows="remembered samples in each step, drawn uniformly. Each preset says how they join the batch.",
    )

    def __init__(
        self,
        samples_per_task: int = 1000,
        mixing: Mixing = "added",
        share: float = 1.0,
        selection: Selection = "uniform",
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(samples_per_task, mixing, share, selection, memory)

    def compose(self, batch: Batch, step: int) -> Batch:
        """Mix remembered samples in, once there are any."""
        if not self.replays:
            return batch
        count = self.remembered_count(batch, step)
        return self.mixture.union(batch, self.memory.sample(count, self.train_seed, step) if count else None)

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """One value per sample, shape (B,); on average over the steps their mean is that of the union."""
        return union_losses(self.model.loss(batch, draw), batch)

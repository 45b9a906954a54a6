"""Half fine-tuning (HFT): each task trains a random half of the parameter tensors; the others keep what they know.

Hui et al., "HFT: half fine-tuning for large language models", arXiv 2404.18466.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import nn

from vla_cl.interfaces import Data
from vla_cl.methods.parameter_patterns import Freezer
from vla_cl.methods.task_counting import TaskCountingMethod, check_range
from vla_cl.types import ConfigurationError, Experience, MethodCard

Grouping = Literal["block", "module", "all"]
GROUPINGS: tuple[Grouping, ...] = ("block", "module", "all")


class HalfFineTuning(TaskCountingMethod):
    """A random share of the parameter tensors is frozen, drawn anew for each task.

    What is drawn follows from the training seed and the experience alone. A frozen tensor stays bit for bit, weight
    decay included. At least one tensor is trained.

    Args:
        frozen_share: Share of the tensors that is frozen; 0 is sequential fine-tuning.
        per_group: Where the share is kept, to within one tensor: ``block``: among siblings, such as the projections of
            one attention layer (the paper's choice, by category); ``module``: in each top-level module; ``all``: over
            the whole model only.
        from_task: First task with frozen tensors; 1 where the run starts from a pretrained model.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "hft"
    card = MethodCard(
        title="Half fine-tuning (HFT)",
        family="regularisation",
        equation=(
            r"\theta_i \text{ trained only if } m_i = 1, \quad m \sim \text{half of the tensors, anew for eac"
            r"h task}"
        ),
        source="Hui et al. 2024, arXiv 2404.18466",
        step="less than 1: no gradient and no update for what is frozen",
        memory="0",
        follows=(
            "a random half of the tensors, drawn anew for each task, by category. Ours: the first task trains "
            "everything."
        ),
    )

    def __init__(self, frozen_share: float = 0.5, per_group: Grouping = "block", from_task: int = 2) -> None:
        if not 0 <= frozen_share < 1:
            raise ConfigurationError(f"method.frozen_share must be at least 0 and below 1; got {frozen_share}")
        if per_group not in GROUPINGS:
            raise ConfigurationError(f"method.per_group must be one of {', '.join(GROUPINGS)}; got {per_group!r}")
        check_range("from_task", from_task, 1, float("inf"))
        self.frozen_share = frozen_share
        self.per_group: Grouping = per_group
        self.from_task = from_task
        self._freezer = Freezer()

    def begin_task(self, experience: Experience) -> None:
        """Draw the half that stays as it is."""
        if self.tasks_learnt + 1 < self.from_task:
            return
        self._freezer.thaw()
        self._freezer.freeze(self.drawn(experience).values())

    def end_task(self, experience: Experience, data: Data) -> None:
        """Give everything back."""
        super().end_task(experience, data)
        self._freezer.thaw()

    def drawn(self, experience: Experience) -> dict[str, nn.Parameter]:
        """The trainable tensors that this experience freezes, by name."""
        trainable = {name: p for name, p in self.model.module.named_parameters() if p.requires_grad}
        generator = np.random.default_rng([self.train_seed, experience.index])
        groups: dict[str, list[str]] = {}
        for name in trainable:
            groups.setdefault(_group(name, self.per_group), []).append(name)
        # Rounding the running total keeps the share over the whole model too, however small the groups are; the random
        # offset decides which way each one is rounded.
        offset, before, chosen = generator.random(), 0, set[str]()
        for names in groups.values():
            after = before + len(names)
            count = int(after * self.frozen_share + offset) - int(before * self.frozen_share + offset)
            chosen.update(generator.choice(names, size=count, replace=False).tolist())
            before = after
        if len(chosen) == len(trainable) and chosen:
            chosen.discard(str(generator.choice(sorted(chosen))))
        return {name: parameter for name, parameter in trainable.items() if name in chosen}


def _group(name: str, grouping: Grouping) -> str:
    """``layers.0.attention.query.weight`` is in block ``layers.0.attention`` and in module ``layers``."""
    if grouping == "all":
        return ""
    return name.partition(".")[0] if grouping == "module" else ".".join(name.split(".")[:-2])

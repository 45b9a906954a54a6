"""Half fine-tuning (HFT): each task trains a random half of the parameter tensors; the others keep what they know.

Hui et al., "HFT: half fine-tuning for large language models", arXiv 2404.18466.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from vla_cl.interfaces import Data, Model
from vla_cl.methods.checked_settings import check_count, check_part
from vla_cl.methods.parameter_patterns import Freezer, trained
from vla_cl.methods.task_counting import TaskCountingMethod
from vla_cl.random_numbers import Purpose, generator
from vla_cl.types import ConfigurationError, Experience, MethodCard

Grouping = Literal["block", "module", "all"]
GROUPINGS: tuple[Grouping, ...] = ("block", "module", "all")


class HalfFineTuning(TaskCountingMethod):
    """A random share of the parameter tensors is frozen, drawn anew for each task.

    What is drawn follows from the training seed and the experience alone. A frozen tensor stays bit for bit, weight
    decay included; buffers (running statistics, codebooks) are left to the model. At least one tensor is trained.

    The paper freezes two of the four projections of each attention layer, one or two of the three matrices of each
    feed-forward layer (so that it is half over all layers) and one of two normalisations. ``block`` is that for any
    network: the tensors of siblings, with what rounding leaves over carried from one block to the next. Embeddings and
    output layer are drawn as all others are. Tensors are counted, not parameters.

    Args:
        frozen_share: Share of the tensors that is frozen; 0 is sequential fine-tuning.
        per_group: Where the share is kept, to within one tensor: ``block``: among siblings, such as the projections of
            one attention layer (as in the paper); ``module``: in each top-level module; ``all``: over
            the whole model only.
        from_task: First task with frozen tensors; 1 where the run starts from a pretrained model.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "hft"
    card = MethodCard(
        title="Half fine-tuning (HFT)",
        paradigm="regularisation",
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
        check_part("frozen_share", frozen_share)
        if per_group not in GROUPINGS:
            raise ConfigurationError(f"method.per_group must be one of {', '.join(GROUPINGS)}; got {per_group!r}")
        check_count("from_task", from_task)
        self.frozen_share = frozen_share
        self.per_group: Grouping = per_group
        self.from_task = from_task
        self._freezer = Freezer()

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.frozen_share > 0

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: Its tensors that learn are so few that in some tasks none would be frozen.
        """
        super().attach(model, train_seed)
        count = len(trained(model.module))
        if self.frozen_share and count < 2:
            raise ConfigurationError(
                f"method 'hft' would freeze nothing: a single tensor of {model.name} is trained; train more of it"
            )
        if 0 < count * self.frozen_share < 1:
            raise ConfigurationError(
                f"method.frozen_share is {self.frozen_share:g}, less than one of the {count} tensors of {model.name} "
                f"that are trained, so some tasks would freeze nothing; raise it to {1 / count:.2g} or more"
            )

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
        trainable = trained(self.model.module)
        random = generator(self.train_seed, Purpose.FROZEN_TENSORS, experience.index)
        groups: dict[str, list[str]] = {}
        for name in trainable:
            groups.setdefault(_group(name, self.per_group), []).append(name)
        # Rounding the running total keeps the share over the whole model too, however small the groups are; the random
        # offset decides which way each one is rounded.
        offset, before, chosen = random.random(), 0, set[str]()
        for names in groups.values():
            after = before + len(names)
            count = int(after * self.frozen_share + offset) - int(before * self.frozen_share + offset)
            chosen.update(random.choice(names, size=count, replace=False).tolist())
            before = after
        if len(chosen) == len(trainable) and chosen:
            chosen.discard(str(random.choice(sorted(chosen))))
        return {name: parameter for name, parameter in trainable.items() if name in chosen}


def _group(name: str, grouping: Grouping) -> str:
    """``layers.0.attention.query.weight`` is in block ``layers.0.attention`` and in module ``layers``."""
    if grouping == "all":
        return ""
    return name.partition(".")[0] if grouping == "module" else ".".join(name.split(".")[:-2])

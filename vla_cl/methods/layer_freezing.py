"""Layer freezing: from some task on, the layers near the input are no longer trained.

Zheng et al., "Spurious forgetting in continual learning of language models", ICLR 2025, arXiv 2501.13453: from the
second task on, the embeddings and the first layers stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vla_cl.interfaces import Data, Model
from vla_cl.methods.parameter_patterns import Freezer, checked_patterns, matching
from vla_cl.methods.task_counting import TaskCountingMethod, check_range
from vla_cl.types import ConfigurationError, Experience, MethodCard


class LayerFreezing(TaskCountingMethod):
    """Parameters that only the first tasks train.

    A frozen parameter stays bit for bit, weight decay included; buffers are left to the model. Steps get cheaper by the
    backward pass through what is frozen, if it lies in front of all that is trained.

    Args:
        frozen: Patterns of the names of the frozen parameters; None: as ``first_share`` says.
        first_share: Without ``frozen``: tensors in the order in which the model registers them, which begins at the
            input in most models, up to this share of its parameters. 0 is sequential fine-tuning.
        from_task: First task that finds them frozen; 1: they are never trained.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "layer_freezing"
    card = MethodCard(
        title="Layer freezing",
        family="regularisation",
        equation=r"\theta_i \text{ trained only in the first tasks, for } i \text{ near the input}",
        source="Zheng et al., ICLR 2025, arXiv 2501.13453",
        step="less than 1: no backward pass through what is frozen in front",
        memory="0",
        follows=(
            "the first layers stay as they are from the second task on. Ours: how many follows from a share of "
            "the parameters."
        ),
    )

    def __init__(self, frozen: Sequence[str] | None = None, first_share: float = 0.5, from_task: int = 2) -> None:
        check_range("first_share", first_share, 0, 1)
        check_range("from_task", from_task, 1, float("inf"))
        self.frozen = checked_patterns("frozen", frozen)
        self.first_share = first_share
        self.from_task = from_task
        self._freezer = Freezer()

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: A pattern matches no parameter, or nothing would be left to train.
        """
        super().attach(model, train_seed)
        chosen = {id(parameter) for parameter in self._chosen().values()}
        if all(id(parameter) in chosen for parameter in model.module.parameters() if parameter.requires_grad):
            setting = "first_share" if self.frozen is None else "frozen"
            raise ConfigurationError(f"method.{setting} freezes every parameter of {model.name}; leave some to train")

    def begin_task(self, experience: Experience) -> None:
        """Freeze, if it is time."""
        self._freezer.freeze(self._chosen().values() if self.tasks_learnt + 1 >= self.from_task else [])

    def end_task(self, experience: Experience, data: Data) -> None:
        """Give the parameters back as they were found, so that the model is saved as it was made."""
        super().end_task(experience, data)
        self._freezer.thaw()

    def _chosen(self) -> dict[str, nn.Parameter]:
        """The parameters to freeze, by name."""
        module = self.model.module
        if self.frozen is not None:
            return matching(module, self.frozen, "frozen")
        limit = self.first_share * sum(parameter.numel() for parameter in module.parameters())
        chosen, size = {}, 0
        for name, parameter in module.named_parameters():
            size += parameter.numel()
            if size > limit:
                break
            chosen[name] = parameter
        return chosen

"""Layer freezing: from some task on, the layers near the input are no longer trained.

Zheng et al., "Spurious forgetting in continual learning of language models", ICLR 2025, arXiv 2501.13453: from the
second task on, the embeddings and the first layers stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vla_cl.interfaces import Data, Model
from vla_cl.methods.checked_settings import check_count, check_range, refuse_idle
from vla_cl.methods.parameter_patterns import Freezer, checked_patterns, matching, roles_of, trained
from vla_cl.methods.task_counting import TaskCountingMethod
from vla_cl.types import ConfigurationError, Experience, MethodCard


class LayerFreezing(TaskCountingMethod):
    """Parameters that only the first tasks train.

    A frozen parameter stays bit for bit, weight decay included; buffers (running statistics, codebooks) are left to the
    model, in frozen layers too. Steps get cheaper by the backward pass through what is frozen, if it lies in front of
    all that is trained.

    Args:
        frozen: Patterns of the names of the frozen parameters; None: as ``first_share`` says.
        first_share: Without ``frozen``: this share of the parameters that are trained and take part in acting, counted
            in the order in which the forward pass uses them, which the model tells (`vla_cl.interfaces.Model.roles`).
            Whole tensors are frozen, so the share is met to within half of the tensor at the border: one tensor of
            NanoVLA, the first of its trunk, is most of it, so 0.5 freezes its encoders, which are 11 % of it at 96
            pixels and 18 % at 64. Layers that give the output are never frozen, so 1 trains them alone. 0 is sequential
            fine-tuning.
        from_task: First task that finds them frozen; 1: they are never trained.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "layer_freezing"
    card = MethodCard(
        title="Layer freezing",
        paradigm="regularisation",
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
        check_count("from_task", from_task)
        self.frozen = checked_patterns("frozen", frozen)
        if frozen is not None:
            refuse_idle(type(self), {"first_share": first_share}, "frozen", list(frozen))
        self.first_share = first_share
        self.from_task = from_task
        self._freezer = Freezer()

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.first_share > 0 if self.frozen is None else bool(self.frozen)

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: A pattern matches no parameter, the model does not tell the order of its layers, nothing
                would be frozen that is trained, or nothing would be left to train.
        """
        super().attach(model, train_seed)
        setting = "first_share" if self.frozen is None else "frozen"
        if not self.acts:
            return
        learning = trained(model.module).keys()
        chosen = self._chosen().keys() & learning
        if chosen == learning:
            raise ConfigurationError(f"method.{setting} freezes every parameter of {model.name}; leave some to train")
        if not chosen:
            raise ConfigurationError(
                f"method.{setting} freezes nothing of {model.name}: "
                + (
                    "no tensor is trained, acts and does not give the output, or the first of them is too large "
                    "a share; raise it, train more of the model, or give patterns in method.frozen"
                    if self.frozen is None
                    else "what it names is not trained anyway; name parameters that are"
                )
            )

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
        if not self.first_share:
            return {}
        roles = roles_of(self.model, self.name, "give method.frozen, patterns of names of parameters")
        acting = {name: p for name, p in trained(module).items() if name not in roles.idle}
        limit = self.first_share * sum(parameter.numel() for parameter in acting.values())
        chosen, size = {}, 0
        for name in roles.forward:
            if name not in acting or name in roles.outputs:
                continue
            if size + acting[name].numel() / 2 > limit:  # without it the share is nearer to what was asked for
                break
            size += acting[name].numel()
            chosen[name] = acting[name]
        return chosen

"""Slow learner: from the second task on the representation learns at a small rate, the output layer at the full one.

Zhang, Wang, Kang, Chen & Wei, "SLCA: slow learner with classifier alignment for continual learning on a pre-trained
model", ICCV 2023, arXiv 2303.05118. The alignment of classifiers, SLCA's second half, needs classes with statistics of
their own, which the models here do not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from vla_cl.interfaces import Model
from vla_cl.methods.checked_settings import check_count, check_range
from vla_cl.methods.parameter_patterns import checked_patterns, matching, roles_of, trained
from vla_cl.methods.task_counting import TaskCountingMethod
from vla_cl.types import ConfigurationError, MethodCard


class SlowLearner(TaskCountingMethod):
    """A share of the learning rate for some parameters; the schedule multiplies each rate alike.

    Buffers, such as running statistics, are left to the model: they follow each task at its own pace.

    Args:
        slow: Patterns of the names of the slow parameters; None: all but the layers that give the output, which the
            model tells (`vla_cl.interfaces.Model.roles`); one that is tied to the input's embeddings is fast too.
        slow_share: Their rate as a share of the full one (the paper's rates are 0.01 apart, for SGD); 1 is sequential
            fine-tuning, 0 keeps them as they are, since AdamW's decay is scaled by the rate too.
        from_task: First task with slow parameters; 1 where the run starts from a pretrained model.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "slca"
    card = MethodCard(
        title="Slow learner (SLCA)",
        paradigm="regularisation",
        equation=r"\eta_{\text{slow}} = s\, \eta, \quad \eta_{\text{output}} = \eta",
        source="Zhang et al., ICCV 2023, arXiv 2303.05118; without its alignment of classifiers",
        step="1",
        memory="0",
        follows="the slow representation and the fast output layer. Not followed: the alignment of classifiers.",
    )

    def __init__(self, slow: Sequence[str] | None = None, slow_share: float = 0.1, from_task: int = 2) -> None:
        check_range("slow_share", slow_share, 0, 1)
        check_count("from_task", from_task)
        self.slow = checked_patterns("slow", slow)
        self.slow_share = slow_share
        self.from_task = from_task

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.slow_share < 1 and self.slow != []

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: A pattern matches no parameter, the model does not tell which layers give its output,
                or nothing that is trained would be slow.
        """
        super().attach(model, train_seed)
        if self.acts and not self._slow().keys() & trained(model.module).keys():
            raise ConfigurationError(
                f"method 'slca' would slow down nothing: what of {model.name} is trained "
                f"{'gives its output' if self.slow is None else 'matches no pattern of method.slow'};"
                " train more of it, or give other patterns in method.slow"
            )

    def make_optimizer(self, groups: list[dict[str, Any]], learning_rate: float, weight_decay: float) -> Optimizer:
        """AdamW; each group is split into a fast part and a slow one with a rate of its own."""
        if self.tasks_learnt + 1 >= self.from_task and self.slow_share < 1:
            groups = self._split(groups, learning_rate)
        return super().make_optimizer(groups, learning_rate, weight_decay)

    def _slow(self) -> dict[str, nn.Parameter]:
        """The slow parameters, by name."""
        module = self.model.module
        if self.slow is not None:
            return matching(module, self.slow, "slow")
        outputs = roles_of(self.model, self.name, "give method.slow, patterns of names of parameters").outputs
        return {name: parameter for name, parameter in module.named_parameters() if name not in outputs}

    def _split(self, groups: list[dict[str, Any]], learning_rate: float) -> list[dict[str, Any]]:
        slow = {id(parameter) for parameter in self._slow().values()}
        # Fast parts first: the rate that reports show is the first group's.
        parts = [
            {
                **group,
                "params": [parameter for parameter in group["params"] if (id(parameter) in slow) is is_slow],
                "lr": group.get("lr", learning_rate) * (self.slow_share if is_slow else 1),
            }
            for is_slow in (False, True)
            for group in groups
        ]
        return [part for part in parts if part["params"]]

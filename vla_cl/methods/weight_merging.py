"""Weight merging: after a task, a point between the weights before it and after it.

Sequential interpolation, theta <- (1 - c) theta_before + c theta_after; for robot policies in RETAIN ("Robust
finetuning of vision-language-action robot policies via parameter merging", arXiv 2512.08333), which also merges the
parts that see, read and act by different shares. Averaging is the running mean of the weights after each task, each
task having begun at the mean of those before.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from vla_cl.interfaces import Data, Model
from vla_cl.methods.checked_settings import check_count, check_range, checked_numbers, refuse_idle
from vla_cl.methods.parameter_patterns import matching, trained
from vla_cl.methods.task_counting import TaskCountingMethod
from vla_cl.types import ConfigurationError, Experience, MethodCard

Mode = Literal["interpolate", "average"]
MODES: tuple[Mode, ...] = ("interpolate", "average")


class WeightMerging(TaskCountingMethod):
    """Interpolation between old and new weights at the end of each task.

    Only trainable floating-point parameters are merged. Buffers (running statistics of normalisation layers, codebooks,
    counters) stay as the last task left them, whatever the weights become: a model with batch normalisation is merged
    without statistics of its own. A step costs what a plain one costs; during a task a copy of the old weights is
    kept.

    Args:
        share: c, how much of the new weights; 1 is sequential fine-tuning, 0 learns nothing.
        shares: Pattern of parameter names to a share of their own; the first pattern that matches counts.
        mode: ``interpolate``: always c; ``average``: c = 1/t after task t, so that every task's weights count alike.
            There ``share`` and ``shares`` have no effect and are refused.
        from_task: First task that is merged. 2: the first task keeps its weights. 1: it is merged with what the run
            starts from, which makes sense for a pretrained model; ``average`` then counts that as one more task.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "weight_merging"
    card = MethodCard(
        title="Weight merging",
        paradigm="regularisation",
        equation=r"\theta_t \leftarrow (1 - c)\, \theta_{t-1} + c\, \theta_t",
        source="sequential interpolation; RETAIN: Yadav et al. 2025, arXiv 2512.08333",
        step="1",
        memory="the old weights during a task (4 bytes per trainable parameter)",
        follows=(
            "the interpolation by shares, per part. Not followed: RETAIN's choice of shares on held-out episodes."
        ),
    )

    def __init__(
        self,
        share: float = 0.5,
        shares: Mapping[str, float] | None = None,
        mode: Mode = "interpolate",
        from_task: int = 2,
    ) -> None:
        self.shares = checked_numbers("shares", shares, 0, 1)
        check_range("share", share, 0, 1)
        check_count("from_task", from_task)
        if mode not in MODES:
            raise ConfigurationError(f"method.mode must be one of {', '.join(MODES)}; got {mode!r}")
        if mode == "average":
            refuse_idle(type(self), {"share": share, "shares": shares}, "mode", mode)
        self.share = share
        self.mode = mode
        self.from_task = from_task
        self._before: dict[str, Tensor] = {}

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.mode == "average" or min([self.share, *self.shares.values()]) < 1

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: A pattern of ``shares`` matches no parameter, nothing that learns would be merged, or
                ``shares`` names all that learns and so leaves nothing to ``share``.
        """
        super().attach(model, train_seed)
        named = matching(model.module, list(self.shares), "shares").keys()
        if self.acts and not self._mergeable(self.from_task):
            raise ConfigurationError(
                f"method 'weight_merging' would merge nothing: no parameter of {model.name} that is trained has a "
                "share below 1; lower method.share, or name parameters that are trained in method.shares"
            )

        if self.shares and self.mode == "interpolate" and named >= trained(model.module).keys():
            refuse_idle(type(self), {"share": self.share}, "shares", self.shares)

    def begin_task(self, experience: Experience) -> None:
        """Copy the weights that will be merged."""
        self._before = {name: parameter.detach().clone() for name, parameter in self._merged().items()}

    def end_task(self, experience: Experience, data: Data) -> None:
        """Merge, in place."""
        shares = {name: self._share(name, self.tasks_learnt + 1) for name in self._before}
        parameters = dict(self.model.module.named_parameters())
        with torch.no_grad():
            for name, before in self._before.items():
                parameters[name].copy_(torch.lerp(before, parameters[name], shares[name]))
        self._before = {}
        super().end_task(experience, data)

    def memory_bytes(self) -> int:
        """The copy of the old weights; between tasks, that which the next task begins with."""
        kept = self._before or (self._merged() if self.tasks_learnt else {})
        return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())

    def _merged(self) -> dict[str, Tensor]:
        """What the task that is being learnt, or comes next, will merge: nothing where the share is 1."""
        return self._mergeable(self.tasks_learnt + 1)

    def _mergeable(self, task: int) -> dict[str, Tensor]:
        """What the ``task``-th task merges, the first being 1."""
        if task < self.from_task:
            return {}
        return {
            name: parameter
            for name, parameter in self.model.module.named_parameters()
            if parameter.requires_grad and parameter.is_floating_point() and self._share(name, task) < 1
        }

    def _share(self, name: str, task: int) -> float:
        if self.mode == "average":
            return 1 / (task + 2 - self.from_task)
        matches = (share for pattern, share in self.shares.items() if fnmatchcase(name, pattern))
        return next(matches, self.share)

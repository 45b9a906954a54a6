"""Quadratic penalties: weights are pulled towards an anchor, each as strongly as it was important.

For any number of past tasks one importance and one anchor per weight are enough: a sum of quadratics is a quadratic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vla_cl.interfaces import Data, Method
from vla_cl.methods.checked_settings import check_strength
from vla_cl.methods.saved_state import TASKS_LEARNT, require_alike, require_finite_state, require_keys, whole_number
from vla_cl.types import Experience

BLOCK = 1 << 18
"""Elements worked on at once on a CPU: five blocks of float32 (weights, anchor, importance, gradient, difference) stay
in its cache, so that each is read from memory once, and few enough calls are needed."""

FOREACH_ELEMENTS = 1 << 26
"""Elements worked on at once on an accelerator: what the temporary differences may occupy."""

IMPORTANCE, ANCHOR = "importance.", "anchor."


class Pull(NamedTuple):
    """One parameter and where it is pulled to.

    Attributes:
        parameter: With its gradient.
        anchor: Of the parameter's shape.
        importance: Of the parameter's shape; None where every weight counts 1.
        scale: Multiplies the pull of the whole tensor.
    """

    parameter: Tensor
    anchor: Tensor
    importance: Tensor | None
    scale: float = 1.0

    @property
    def tensors(self) -> list[Tensor]:
        """Weights, anchor and, if there is one, importance."""
        return [self.parameter, self.anchor, *([] if self.importance is None else [self.importance])]


class QuadraticPenalty:
    """strength * sum_i A_i (theta_i - anchor_i)^2 over named parameters.

    Attributes:
        importance: Parameter name to A, of the parameter's shape, float32 (float64 for such parameters).
        anchor: Parameter name to anchor, likewise.
    """

    def __init__(self) -> None:
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    @torch.no_grad()
    def merge(self, importance: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Add the quadratic sum_i F_i (theta_i - weights_i)^2, exactly but for a constant.

        With A' = A + F, anchor' = anchor + F / A' * (weights - anchor): the gradient is that of the sum. Keeping
        A theta - B instead would lose the digits in which the tasks differ.

        Args:
            importance: Parameter name to F; names that are not in it keep their quadratic.
            weights: Parameter name to weights, at least those in ``importance``.
        """
        for name, added in importance.items():
            if name not in self.importance:
                self._start(name, added, weights[name])
                continue
            held, anchor = self.importance[name], self.anchor[name]
            _require_shape(name, added, held)
            held += added
            share = torch.where(held > 0, added / held, 0.0)
            anchor += share * (weights[name].to(anchor) - anchor)

    @torch.no_grad()
    def replace(self, decay: float, importance: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """A <- decay * A + F, anchor <- weights (Schwarz et al. 2018, arXiv 1805.06370, "online").

        Args:
            decay: Of the importance so far, in 0..1.
            importance: Parameter name to F; names that are not in it keep their quadratic.
            weights: Parameter name to weights, at least those in ``importance``.
        """
        for name, added in importance.items():
            if name not in self.importance:
                self._start(name, added, weights[name])
                continue
            _require_shape(name, added, self.importance[name])
            self.importance[name].mul_(decay).add_(added)
            self.anchor[name].copy_(weights[name])

    def pulls(self, parameters: Mapping[str, Tensor]) -> list[Pull]:
        """The parameters that there is a quadratic for."""
        return [Pull(parameters[n], self.anchor[n], a) for n, a in self.importance.items() if n in parameters]

    def add_gradient(self, parameters: Mapping[str, Tensor], strength: float, half: bool) -> None:
        """Add the penalty's gradient to ``.grad``; parameters without one, or that do not learn, are left alone.

        Args:
            parameters: Parameter name to parameter; those without a quadratic are passed over.
            strength: Of the penalty; 0 touches nothing.
            half: Whether the penalty is strength / 2 * sum_i ...
        """
        add_quadratic_gradient(self.pulls(parameters), strength if half else 2 * strength)

    @torch.no_grad()
    def value(self, parameters: Mapping[str, Tensor], strength: float, half: bool) -> float:
        """The penalty, for logs and tests."""
        total = 0.0
        for parameter, anchor, importance, _ in self.pulls(parameters):
            assert importance is not None
            total += (importance * (parameter - anchor).square()).sum(dtype=torch.float64).item()
        return total * strength * (0.5 if half else 1.0)

    def memory_bytes(self) -> int:
        """8 bytes per float32 parameter, for any number of tasks."""
        return sum(t.numel() * t.element_size() for t in (*self.importance.values(), *self.anchor.values()))

    def state_dict(self) -> dict[str, Tensor]:
        """``importance.<parameter>`` and ``anchor.<parameter>``."""
        state = {IMPORTANCE + name: tensor for name, tensor in self.importance.items()}
        return state | {ANCHOR + name: tensor for name, tensor in self.anchor.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: It is not a penalty's state.
        """
        found = {prefix: tensors_named(state, prefix, device) for prefix in (IMPORTANCE, ANCHOR)}
        if len(state) != sum(map(len, found.values())) or found[IMPORTANCE].keys() != found[ANCHOR].keys():
            raise ValueError(
                f"a penalty's state has importance.<parameter> and anchor.<parameter> for each parameter; got "
                f"{sorted(state)[:6]} and so on, {len(state)} tensors"
            )
        self.importance, self.anchor = found[IMPORTANCE], found[ANCHOR]

    def _start(self, name: str, importance: Tensor, weights: Tensor) -> None:
        _require_shape(name, importance, weights)
        dtype = torch.promote_types(weights.dtype, torch.float32)
        for held, given in ((self.importance, importance), (self.anchor, weights)):
            held[name] = torch.empty(weights.shape, dtype=dtype, device=weights.device).copy_(given)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter, for those that learn; one that has several names comes once, under its first."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def tensors_named(state: Mapping[str, Tensor], prefix: str, device: torch.device) -> dict[str, Tensor]:
    """Copies of the tensors of a state whose names begin with ``prefix``, without it, on ``device``."""
    copies = {key: tensor.detach().to(device, copy=True) for key, tensor in state.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): tensor for key, tensor in copies.items()}


@torch.no_grad()
def add_quadratic_gradient(pulls: Iterable[Pull], factor: float) -> None:
    """Add factor * scale * importance * (parameter - anchor) to each parameter's ``.grad``.

    Theoretical cost: one pass that reads weights, anchor, importance and gradient and writes the gradient, 20 bytes per
    parameter. Parameters without gradient, or that do not learn, are left alone.
    """
    if factor == 0:
        return
    together: list[Pull] = []
    scratch: Tensor | None = None
    for pull in pulls:
        parameter, gradient = pull.parameter, pull.parameter.grad
        if gradient is None or not parameter.requires_grad:
            continue
        alike = all(tensor.dtype == parameter.dtype for tensor in (*pull.tensors, gradient))
        if not alike:
            _add_whole(pull, gradient, factor * pull.scale)
        elif parameter.device.type != "cpu":
            together.append(pull)
        elif all(tensor.is_contiguous() for tensor in (*pull.tensors, gradient)):
            scratch = parameter.new_empty(BLOCK) if scratch is None or scratch.dtype != parameter.dtype else scratch
            _add_in_blocks(pull, gradient, factor * pull.scale, scratch)
        else:
            _add_whole(pull, gradient, factor * pull.scale)
    _add_together(together, factor)


def _add_in_blocks(pull: Pull, gradient: Tensor, factor: float, scratch: Tensor) -> None:
    tensors = [tensor.detach() for tensor in (*pull.tensors, gradient)]
    if gradient.numel() <= BLOCK:
        _add_block(tensors, factor, scratch[: gradient.numel()].view(gradient.shape))
        return
    for blocks in zip(*(torch.split(tensor.view(-1), BLOCK) for tensor in tensors), strict=True):
        _add_block(blocks, factor, scratch[: blocks[0].numel()])


def _add_block(tensors: Sequence[Tensor], factor: float, difference: Tensor) -> None:
    """One block of weights, anchor, importance (may be absent) and gradient; all but the gradient are read only."""
    torch.sub(tensors[0], tensors[1], out=difference)
    if len(tensors) == 3:
        tensors[2].add_(difference, alpha=factor)
    else:
        tensors[3].addcmul_(difference, tensors[2], value=factor)


def _add_whole(pull: Pull, gradient: Tensor, factor: float) -> None:
    difference = pull.parameter.detach() - pull.anchor
    if pull.importance is not None:
        difference = difference * pull.importance
    gradient.add_(difference, alpha=factor)


def _add_together(pulls: Sequence[Pull], factor: float) -> None:
    """Many tensors in few calls, `FOREACH_ELEMENTS` at a time."""
    groups: dict[object, list[list[Pull]]] = {}
    filled = 0
    for pull in pulls:
        kind = (pull.parameter.device, pull.parameter.dtype, pull.importance is None, pull.scale)
        filled += pull.parameter.numel()
        if kind not in groups or filled > FOREACH_ELEMENTS:
            groups.setdefault(kind, []).append([])
            filled = pull.parameter.numel()
        groups[kind][-1].append(pull)
    for group in (group for groups_of_kind in groups.values() for group in groups_of_kind):
        gradients = [pull.parameter.grad for pull in group if pull.parameter.grad is not None]
        differences = torch._foreach_sub([p.parameter.detach() for p in group], [p.anchor for p in group])
        importances = [pull.importance for pull in group if pull.importance is not None]
        if importances:
            torch._foreach_addcmul_(gradients, differences, importances, value=factor * group[0].scale)
        else:
            torch._foreach_add_(gradients, differences, alpha=factor * group[0].scale)


def _require_shape(name: str, tensor: Tensor, held: Tensor) -> None:
    if tensor.shape != held.shape:
        raise ValueError(
            f"the penalty holds {tuple(held.shape)} for parameter {name!r}, but it now has {tuple(tensor.shape)}; a "
            "quadratic penalty cannot follow a parameter that changes its shape"
        )


class ImportancePenalty(Method):
    """What EWC, SI and MAS share: a penalty that grows at the end of each task, and its gradient in each step.

    Args:
        strength: Of the penalty; 0 is sequential fine-tuning.
        half: Whether the penalty is strength / 2 * sum_i ...

    Raises:
        ConfigurationError: The strength is negative or not finite.
    """

    def __init__(self, strength: float, half: bool) -> None:
        check_strength("strength", strength)
        self.strength = strength
        self.half = half
        self.penalty = QuadraticPenalty()
        self.parameters: dict[str, nn.Parameter] = {}
        self.tasks_learnt = 0

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.strength > 0

    def begin_task(self, experience: Experience) -> None:
        """Look up what learns in this task; it may not be what learnt in the last."""
        self.parameters = trainable(self.model.module)

    def edit_gradients(self) -> None:
        """Add the penalty's gradient, in closed form."""
        self.penalty.add_gradient(self.parameters, self.strength, self.half)

    def end_task(self, experience: Experience, data: Data) -> None:
        """One task more has been learnt; a method adds its importances."""
        self.tasks_learnt += 1

    def memory_bytes(self) -> int:
        """Importance and anchor: 8 bytes per parameter, for any number of tasks."""
        return self.penalty.memory_bytes()

    def state_dict(self) -> dict[str, Tensor]:
        """Importance and anchor."""
        return self.penalty.state_dict()

    def extra_state(self) -> dict[str, object]:
        """How many tasks have been learnt."""
        return {TASKS_LEARNT: self.tasks_learnt}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Continue with the same penalty.

        Raises:
            ValueError: The checkpoint is another method's or another model's, or an importance is negative.
        """
        name = type(self).__name__
        require_keys(name, extra, [TASKS_LEARNT])
        tasks_learnt = whole_number(TASKS_LEARNT, extra[TASKS_LEARNT])
        require_alike(name, state, self._expected(state) if tasks_learnt and self.strength else {})
        require_finite_state(state)
        if negative := [key for key in state if key.startswith(IMPORTANCE) and bool((state[key] < 0).any())]:
            raise ValueError(f"an importance is never negative, but the checkpoint holds such in {negative[:5]}")
        self.penalty.load_state_dict(state, self.model.device)
        self.tasks_learnt = tasks_learnt

    def _expected(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a checkpoint must hold: of all that learns, and of what else of the model it has."""
        kept = {
            name: p for name, p in self.model.module.named_parameters() if p.requires_grad or ANCHOR + name in state
        }
        like = {name: p.detach().to("meta", torch.promote_types(p.dtype, torch.float32)) for name, p in kept.items()}
        return {prefix + name: tensor for prefix in (IMPORTANCE, ANCHOR) for name, tensor in like.items()}

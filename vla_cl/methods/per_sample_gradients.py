"""Sums over samples of squared or absolute gradients, exact, from one forward and backward pass per batch.

The gradient of a layer's parameters for one sample follows from what went into the layer and the gradient of what came
out of it, and both have the samples as first dimension (Goodfellow 2015, arXiv 1510.01799). Where that does not hold,
`NotPerSampleError` says so: `PerSampleGradients.check` compares one sample with autograd.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from vla_cl.methods.per_sample_gradients_layers import (
    NotPerSampleError,
    Statistic,
    Use,
    per_sample,
    total,
    working_size,
)

WORKING_NUMBERS = 1 << 20
"""Numbers held at once while gradients of samples are summed: few enough for the cache, many enough for few calls."""

TOLERANCE = 1e-2
"""Relative difference from autograd above which the samples' gradients are called wrong: a wrong structure is off by
about its whole size, bfloat16 by 0.003."""


class PerSampleGradients:
    """Per-sample gradients of a module's trainable parameters.

    Args:
        module: Any module.
        parameters: Name to parameter, of those that are asked for.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self._module = module
        self._parameters = dict(parameters)
        self._names = {id(parameter): name for name, parameter in self._parameters.items()}
        self._batched: dict[tuple[str, int], list[int]] = {}

    def check(self, values: Callable[[], Tensor], count: int) -> None:
        """Compare one sample with autograd: finds what mixes samples or passes the hooks by.

        A few samples will do, best a number that is no other dimension's: what depends on the samples is learnt here.

        Args:
            values: Runs the module; gives one value per sample, shape (count,).
            count: Samples.

        Raises:
            NotPerSampleError: The gradient of each sample cannot be told from one pass.
        """
        found, uses = self._differentiated(values, count, retain_graph=True)
        for use in uses:
            self._batched[use.key] = use.batched = use.inputs_of_samples()
        with torch.no_grad():
            self._compare(found, self._calls(uses))

    def sums(self, values: Callable[[], Tensor], count: int, statistic: Statistic) -> dict[str, Tensor]:
        """Sum over samples of the squared or absolute gradient of each sample's value; `check` has been called.

        ``.grad`` is neither read nor written.

        Args:
            values: Runs the module; gives one value per sample, shape (count,).
            count: Samples.
            statistic: What is summed.

        Returns:
            Parameter name to sum, of the parameter's shape, in float32 or better; zero where no gradient arrives.

        Raises:
            NotPerSampleError: The gradient of each sample cannot be told from one pass.
        """
        _, uses = self._differentiated(values, count, retain_graph=False)
        for use in uses:
            if use.key not in self._batched:
                raise NotPerSampleError(f"{use.label}: was called more often than when it was checked")
            use.batched = self._batched[use.key]
        with torch.no_grad():
            calls = self._calls(uses)
            return {name: self._sum(name, calls[name], count, statistic) for name in self._parameters}

    def _differentiated(self, values: Callable[[], Tensor], count: int, retain_graph: bool) -> tuple[Tensor, list[Use]]:
        """The values, and every call of a module that owns parameters, with the gradients of what came out."""
        uses: list[Use] = []
        edges: list[list[GradientEdge]] = []
        with self._recorded(uses, edges, count):
            found = values()
        if found.shape != (count,):
            raise NotPerSampleError(f"expected one value per sample, shape ({count},), but got {tuple(found.shape)}")
        flat = [edge for several in edges for edge in several]
        given = torch.autograd.grad(found.sum(), flat, retain_graph=retain_graph, allow_unused=True) if flat else ()
        gradients = iter(given)
        for use, several in zip(uses, edges, strict=True):
            arrived = [next(gradients) for _ in several]
            use.positions = [p for p, g in zip(use.positions, arrived, strict=True) if g is not None]
            use.gradients = [gradient for gradient in arrived if gradient is not None]
        return found, [use for use in uses if use.gradients]

    @contextmanager
    def _recorded(self, uses: list[Use], edges: list[list[GradientEdge]], count: int) -> Iterator[None]:
        """Note every call of a module that owns parameters, in the order of the calls."""
        called = Counter[str]()
        recording = True  # not while a checkpointed part is computed again

        def note(label: str) -> Callable[..., None]:
            def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:  # noqa: ANN401
                tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
                positions = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]
                if not recording or not torch.is_grad_enabled() or not positions:
                    return
                inputs = [leaf for leaf in pytree.tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)]
                versions = [leaf._version for leaf in inputs]
                uses.append(Use((label, called[label]), module, count, (arguments, keywords), versions, positions))
                edges.append([get_gradient_edge(tensors[position]) for position in positions])
                called[label] += 1

            return hook

        handles: list[RemovableHandle] = []
        for label, module in self._module.named_modules():
            if any(id(parameter) in self._names for _, parameter in _owned(module)):
                handles.append(module.register_forward_hook(note(label), with_kwargs=True))
        try:
            yield
        finally:
            recording = False
            for handle in handles:
                handle.remove()

    def _calls(self, uses: list[Use]) -> dict[str, list[tuple[Use, str]]]:
        """Parameter name to the calls that used it, each with the parameter's name in the module."""
        calls: dict[str, list[tuple[Use, str]]] = {name: [] for name in self._parameters}
        for use in uses:
            use.check()
            for local, parameter in _owned(use.module):
                if (name := self._names.get(id(parameter))) is not None:
                    calls[name].append((use, local))
        return calls

    def _sum(self, name: str, calls: list[tuple[Use, str]], count: int, statistic: Statistic) -> Tensor:
        parameter = self._parameters[name]
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        if len(calls) == 1 and (whole := total(*calls[0], statistic, dtype)) is not None:
            return whole
        result = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.contiguous_format)
        if not calls:
            return result
        block = max(1, WORKING_NUMBERS // max(working_size(*call) for call in calls))
        for first in range(0, count, block):
            gradients = _of_rows(calls, slice(first, min(first + block, count)), dtype)
            result += _sum_of_rows(gradients.square_() if statistic == "squared" else gradients.abs_())
        return result

    def _compare(self, values: Tensor, calls: Mapping[str, list[tuple[Use, str]]]) -> None:
        """Raise unless the gradients of the sample of the largest value are autograd's."""
        row = int(values.detach().abs().argmax())
        one = torch.zeros_like(values).index_fill_(0, torch.tensor([row], device=values.device), 1.0)
        asked = list(self._parameters.values())
        expected = torch.autograd.grad(values, asked, one, allow_unused=True)
        size = torch.stack([g.float().norm() for g in expected if g is not None] or [torch.zeros(())]).norm()
        for name, gradient in zip(self._parameters, expected, strict=True):
            dtype = torch.promote_types(self._parameters[name].dtype, torch.float32)
            ours = _of_rows(calls[name], slice(row, row + 1), dtype)[0] if calls[name] else torch.zeros((), dtype=dtype)
            theirs = torch.zeros_like(ours) if gradient is None else gradient.to(dtype)
            difference, scale = (ours.to(theirs.device) - theirs).norm(), theirs.norm()
            if not difference <= TOLERANCE * scale + 1e-5 * size:
                place = "is used outside of the module that owns it" if not calls[name] else "has another gradient"
                raise NotPerSampleError(
                    f"parameter {name!r} {place}: for one sample autograd gives norm {scale.item():.3g}, its layers "
                    f"give something {difference.item():.3g} away"
                )


def _owned(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a module uses itself, under every name that it has for them."""
    # Attention never calls its output layer, but reads that layer's weights.
    nested = isinstance(module, nn.MultiheadAttention)
    return module.named_parameters(recurse=nested, remove_duplicate=False)


def _of_rows(calls: list[tuple[Use, str]], rows: slice, dtype: torch.dtype) -> Tensor:
    """The gradients of some samples, (N, *shape of the parameter), summed over all calls that used the parameter."""
    result = per_sample(*calls[0], rows, dtype)
    for use, local in calls[1:]:
        result = result + per_sample(use, local, rows, dtype)
    return result


def _sum_of_rows(gradients: Tensor) -> Tensor:
    """Sum over the first dimension, along memory: several times faster where the others are permuted."""
    strides = gradients.stride()
    order = sorted(range(gradients.ndim), key=lambda dimension: (dimension > 0, -strides[dimension]))
    result = gradients.permute(order).sum(0)
    inverse = sorted(range(result.ndim), key=lambda dimension: order[dimension + 1])
    return result.permute(inverse)

"""Gradients per sample of one layer, from what went into it and the gradient of what came out.

Linear layers, convolutions, embeddings and normalisations have closed forms; every other module that owns parameters is
differentiated sample by sample inside one vectorised call (`torch.func.vmap`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional, grad
from torch.utils import _pytree as pytree

Statistic = Literal["squared", "absolute"]
"""What is summed over samples of each entry of the gradient."""


LARGE_CONVOLUTION = 1_000_000
"""Multiplications per sample from which the library's own gradient is asked for, sample by sample, on a CPU."""


class NotPerSampleError(RuntimeError):
    """The gradient of each sample cannot be told from one pass; the message says where and why."""


@dataclass
class Use:
    """One call of a module that owns parameters.

    Attributes:
        key: The module's name, and how often it had been called before.
        count: Samples of the batch.
        arguments: Positional and keyword arguments.
        versions: How often each tensor among the arguments had been changed in place by then.
        positions: Which of the output's tensors have a gradient.
        gradients: Of those.
        batched: Which of the arguments' leaves have the samples as first dimension.
    """

    key: tuple[str, int]
    module: nn.Module
    count: int
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    versions: list[int]
    positions: list[int]
    gradients: list[Tensor] = field(default_factory=list)
    batched: list[int] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The module's name, for messages."""
        return self.key[0]

    def inputs_of_samples(self) -> list[int]:
        """The leaves of the arguments whose first dimension could be the samples."""
        leaves = pytree.tree_leaves(self.arguments)
        return [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.shape[:1] == (self.count,)]

    def check(self) -> None:
        """Raise unless inputs and gradients are as they were and have the samples as first dimension."""
        inputs = [leaf for leaf in pytree.tree_leaves(self.arguments) if isinstance(leaf, Tensor)]
        if [leaf._version for leaf in inputs] != self.versions:
            raise NotPerSampleError(f"{self.label}: its input was changed in place afterwards")
        leaves = pytree.tree_leaves(self.arguments)
        expected = inputs[:1] if _kind(self.module) in _RULES else [leaves[place] for place in self.batched]
        for tensor in (*expected, *self.gradients):
            if tensor.ndim == 0 or tensor.shape[0] != self.count:
                raise NotPerSampleError(
                    f"{self.label}: the first dimension of {tuple(tensor.shape)} is not the {self.count} samples"
                )

    @property
    def input(self) -> Tensor:
        """The first argument."""
        tensor = pytree.tree_leaves(self.arguments)[0]
        assert isinstance(tensor, Tensor)
        return tensor


def per_sample(use: Use, name: str, rows: slice, dtype: torch.dtype) -> Tensor:
    """The gradient of each sample of ``rows``, shape (number of rows, *shape of the parameter).

    Args:
        use: A checked call.
        name: The parameter's name in the module.
        rows: Samples.
        dtype: Of the result.

    Raises:
        NotPerSampleError: The module's inputs are not of the kind that the layer defines.
    """
    rule = _RULES.get(_kind(use.module), _any_module)
    return rule(use, name, rows, dtype)


def total(use: Use, name: str, statistic: Statistic, dtype: torch.dtype) -> Tensor | None:
    """The sum over all samples without ever holding the gradient of one, where that is possible; else None.

    For a linear layer of vectors the gradient of a sample is an outer product, and so is its square: the sum over
    samples is a product of matrices. An embedding's gradient has few rows that are not zero.
    """
    kind = _kind(use.module)
    if kind is nn.Linear.forward and name == "weight" and use.input.ndim == 2:
        return _size(use.gradients[0].to(dtype), statistic).T @ _size(use.input.to(dtype), statistic)
    if kind is nn.Embedding.forward:
        return _embedding_total(use, statistic, dtype)
    return None


def working_size(use: Use, name: str) -> int:
    """Numbers that `per_sample` holds for each sample, about."""
    size = int(use.module.get_parameter(name).numel())
    if _kind(use.module) in (nn.Conv1d.forward, nn.Conv2d.forward) and name == "weight" and _by_patches(use):
        module = use.module
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        size += module.in_channels * math.prod(module.kernel_size) * math.prod(use.gradients[0].shape[2:])
    return size


def _size(tensor: Tensor, statistic: Statistic) -> Tensor:
    return tensor.square() if statistic == "squared" else tensor.abs()


def _kind(module: nn.Module) -> Callable[..., Any]:
    """The forward function: a subclass that only adds attributes is still what it inherits from."""
    forward: Callable[..., Any] = type(module).forward
    if isinstance(module, nn.Conv1d | nn.Conv2d) and (module.padding_mode != "zeros" or module.padding == "same"):
        return nn.Module.forward
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return nn.Module.forward
    return forward


def _linear(use: Use, name: str, rows: slice, dtype: torch.dtype) -> Tensor:
    gradient = use.gradients[0][rows].to(dtype)
    gradient = gradient.reshape(len(gradient), -1, gradient.shape[-1])
    if name == "bias":
        return gradient.sum(1)
    inputs = use.input[rows].to(dtype)
    return gradient.transpose(1, 2) @ inputs.reshape(len(inputs), -1, inputs.shape[-1])


def _convolution(use: Use, name: str, rows: slice, dtype: torch.dtype) -> Tensor:
    module = use.module
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    inputs, gradient = use.input[rows].to(dtype), use.gradients[0][rows].to(dtype)
    if name == "bias":
        return gradient.flatten(2).sum(2)
    if _by_patches(use):
        return _from_patches(module, inputs, gradient)
    backward = grad.conv1d_weight if isinstance(module, nn.Conv1d) else grad.conv2d_weight
    settings: Any = (module.stride, _padding(module), module.dilation, module.groups)
    pairs = zip(inputs.split(1), gradient.split(1), strict=True)  # type: ignore[no-untyped-call]
    return torch.stack([backward(sample, module.weight.shape, slope, *settings) for sample, slope in pairs])  # type: ignore[no-untyped-call]


def _by_patches(use: Use) -> bool:
    """Whether one product for several samples beats a call per sample; the latter copies nothing, but costs 25 us."""
    module = use.module
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    products = module.weight.numel() * math.prod(use.gradients[0].shape[2:])
    return module.groups == 1 and (products <= LARGE_CONVOLUTION or use.gradients[0].device.type != "cpu")


def _from_patches(module: nn.Conv1d | nn.Conv2d, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of what comes out times what the kernel saw there; channels come last, so that patches copy fast."""
    kernel, stride, dilation, padding = (
        (1, *value) if len(value) == 1 else value
        for value in (module.kernel_size, module.stride, module.dilation, _padding(module))
    )
    if isinstance(module, nn.Conv1d):
        inputs, gradient, padding = inputs.unsqueeze(2), gradient.unsqueeze(2), (0, padding[1])
    padded = functional.pad(inputs.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    padded = padded.contiguous()
    count, channels, places = len(inputs), inputs.shape[1], gradient.shape[2:]
    sample, row, column, channel = padded.stride()
    strides = (sample, row * stride[0], column * stride[1], row * dilation[0], column * dilation[1], channel)
    patches = padded.as_strided((count, *places, *kernel, channels), strides)
    found = gradient.flatten(2) @ patches.reshape(count, math.prod(places), -1)
    return found.view(count, -1, *kernel, channels).permute(0, 1, 4, 2, 3).reshape(count, *module.weight.shape)


def _padding(module: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    return (0,) * len(module.kernel_size) if module.padding == "valid" else tuple(int(p) for p in module.padding)


def _embedding(use: Use, name: str, rows: slice, dtype: torch.dtype) -> Tensor:
    module = use.module
    assert isinstance(module, nn.Embedding)
    indices, gradient = _embedding_inputs(use, rows, dtype)
    count = len(indices)
    found = gradient.new_zeros(count * module.num_embeddings, module.embedding_dim)
    keys = indices + module.num_embeddings * torch.arange(count, device=indices.device)[:, None]
    found.index_add_(0, keys.flatten(), gradient.flatten(0, 1))
    return found.view(count, module.num_embeddings, module.embedding_dim)


def _embedding_total(use: Use, statistic: Statistic, dtype: torch.dtype) -> Tensor:
    module = use.module
    assert isinstance(module, nn.Embedding)
    indices, gradient = _embedding_inputs(use, slice(None), dtype)
    keys = indices + module.num_embeddings * torch.arange(len(indices), device=indices.device)[:, None]
    pairs, places = torch.unique(keys, return_inverse=True)  # of sample and row of the table
    sums = gradient.new_zeros(len(pairs), module.embedding_dim).index_add_(0, places.flatten(), gradient.flatten(0, 1))
    found = gradient.new_zeros(module.num_embeddings, module.embedding_dim)
    return found.index_add_(0, pairs % module.num_embeddings, _size(sums, statistic))


def _embedding_inputs(use: Use, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Indices (N, T) and gradients (N, T, D); none for the index of padding."""
    module = use.module
    assert isinstance(module, nn.Embedding)
    indices, gradient = use.input[rows], use.gradients[0][rows].to(dtype)
    indices = indices.reshape(len(indices), -1)
    gradient = gradient.reshape(*indices.shape, -1)
    if module.padding_idx is not None:
        gradient = gradient * (indices != module.padding_idx).unsqueeze(-1)
    return indices, gradient


def _layer_norm(use: Use, name: str, rows: slice, dtype: torch.dtype) -> Tensor:
    module = use.module
    assert isinstance(module, nn.LayerNorm)
    found = use.gradients[0][rows].to(dtype)
    if name == "weight":
        found = found * functional.layer_norm(use.input[rows].to(dtype), module.normalized_shape, eps=module.eps)
    return found.reshape(len(found), -1, *module.normalized_shape).sum(1)


def _group_norm(use: Use, name: str, rows: slice, dtype: torch.dtype) -> Tensor:
    module = use.module
    assert isinstance(module, nn.GroupNorm)
    found = use.gradients[0][rows].to(dtype)
    if name == "weight":
        found = found * functional.group_norm(use.input[rows].to(dtype), module.num_groups, eps=module.eps)
    return found.reshape(*found.shape[:2], -1).sum(2)


def _any_module(use: Use, name: str, rows: slice, dtype: torch.dtype) -> Tensor:
    """Call the module again, once per sample inside `torch.func.vmap`, and pull the gradient back to the parameter."""
    leaves, layout = pytree.tree_flatten(use.arguments)
    if not use.batched:
        raise NotPerSampleError(f"{use.label}: no input has the {use.count} samples as its first dimension")
    parameter = use.module.get_parameter(name).detach()

    def pull_back(gradients: list[Tensor], samples: list[Tensor]) -> Tensor:
        filled = list(leaves)
        for place, sample in zip(use.batched, samples, strict=True):
            filled[place] = sample.unsqueeze(0)

        def forward(weights: Tensor) -> tuple[Tensor, ...]:
            arguments, keywords = pytree.tree_unflatten(filled, layout)
            output = torch.func.functional_call(use.module, {name: weights}, arguments, keywords, tie_weights=False)
            tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
            return tuple(tensors[position] for position in use.positions)

        pulled: Tensor = torch.func.vjp(forward, parameter)[1](tuple(g.unsqueeze(0) for g in gradients))[0]
        return pulled

    samples = [leaves[place].detach()[rows] for place in use.batched]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            found: Tensor = torch.func.vmap(pull_back)([g[rows] for g in use.gradients], samples)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise NotPerSampleError(f"{use.label}: cannot be called sample by sample ({error})") from error
    return found.to(dtype)


_RULES: dict[Callable[..., Any], Callable[[Use, str, slice, torch.dtype], Tensor]] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: _convolution,
    nn.Conv2d.forward: _convolution,
    nn.Embedding.forward: _embedding,
    nn.LayerNorm.forward: _layer_norm,
    nn.GroupNorm.forward: _group_norm,
}

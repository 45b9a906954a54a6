"""Gradients as vectors: those of a remembered loss beside those of the batch, dot products, sums, many as rows.

A model's gradient stays where it is, one tensor per parameter; nothing here puts them all behind each other, except for
the rows that a method keeps anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SUMMED = 4096
"""Elements whose products with another row are summed in float32, before the sums are added in float64."""

_READ_AT_ONCE = 2**16
"""Elements of each row that are multiplied with a vector in one call: summed in at least 64 parts by the processor,
so with the digits of `SUMMED`, and read at four fifths of what memory gives."""

_ROWS_AT_ONCE = 4
"""Rows added to a vector in one call on a CPU: four streams are read faster than sixty."""


def with_gradient(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that the next step moves, in the order of ``parameters()``."""
    return [parameter for parameter in module.parameters() if parameter.grad is not None]


def gradients_of(value: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradient of a scalar, one tensor per parameter, zero where it does not depend on one.

    ``.grad`` is neither read nor written.
    """
    if not value.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient.detach()
        for parameter, gradient in zip(parameters, found, strict=True)
    ]


@torch.no_grad()
def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The dot product of two gradients; tensors of half precision are summed in float32, their sums in float64."""
    products = [torch.dot(_vector(a), _vector(b)) for a, b in zip(left, right, strict=True)]
    return float(torch.stack([product.double() for product in products]).sum()) if products else 0.0


@torch.no_grad()
def add_scaled(gradients: Sequence[Tensor], others: Sequence[Tensor], factor: float) -> None:
    """Add ``factor`` times the others, in place."""
    for gradient, other in zip(gradients, others, strict=True):
        gradient.add_(other, alpha=factor)


def require_finite(values: Sequence[float] | NDArray[np.float64], what: str) -> None:
    """Raise unless all are finite.

    Raises:
        FloatingPointError: One is not; the weights have not been changed.
    """
    if not np.isfinite(values).all():
        raise FloatingPointError(
            f"{what} is not finite; the weights have not been changed; lower training.learning_rate, look at the data"
        )


class GradientRows:
    """Vectors in the space of gradients, as the rows of one matrix.

    Args:
        count: Rows.
        parameters: Whose gradients a row holds, behind each other.

    Attributes:
        matrix: Shape (count, entries of all parameters), float32 (float64 for such parameters).
    """

    def __init__(self, count: int, parameters: Sequence[Tensor]) -> None:
        self._sizes = [parameter.numel() for parameter in parameters]
        self._borders = [0, *accumulate(self._sizes)]
        device = parameters[0].device if parameters else torch.device("cpu")
        precision = torch.float32
        for parameter in parameters:
            precision = torch.promote_types(precision, parameter.dtype)
        self.matrix = torch.empty(count, self._borders[-1], dtype=precision, device=device)

    def fits(self, count: int, parameters: Sequence[Tensor]) -> bool:
        """Whether this could be used again for so many rows of these parameters."""
        return len(self.matrix) == count and self._sizes == [parameter.numel() for parameter in parameters]

    @torch.no_grad()
    def write(self, row: int, gradients: Sequence[Tensor]) -> None:
        """Put a gradient into a row."""
        for (first, end), gradient in zip(pairwise(self._borders), gradients, strict=True):
            self.matrix[row, first:end].view(gradient.shape).copy_(gradient)

    @torch.no_grad()
    def flat(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """A gradient (None: zero) as the rows are, shape (entries,)."""
        result = self.matrix.new_empty(self._borders[-1])
        for (first, end), gradient in zip(pairwise(self._borders), gradients, strict=True):
            if gradient is None:
                result[first:end].zero_()
            else:
                result[first:end].view(gradient.shape).copy_(gradient)
        return result

    @torch.no_grad()
    def products(self, vector: Tensor) -> Tensor:
        """The dot product of each row with a vector (entries,), shape (count,), float64."""
        whole = len(vector) // SUMMED * SUMMED
        total = self.matrix[:, whole:].double() @ vector[whole:].double()
        parts = [slice(first, min(first + _READ_AT_ONCE, whole)) for first in range(0, whole, _READ_AT_ONCE)]
        if parts:
            sums = [torch.mv(self.matrix[:, part], vector[part]) for part in parts]
            total += torch.stack(sums).sum(0, dtype=torch.float64)
        return total

    @torch.no_grad()
    def gram(self) -> Tensor:
        """The dot product of each row with each row, shape (count, count), float64."""
        return _products(self.matrix, self.matrix)

    @torch.no_grad()
    def add_to(self, vector: Tensor, factors: Tensor) -> None:
        """Add the rows, each times its factor, to a vector (entries,) in place."""
        weights = factors.to(self.matrix)
        together = len(weights) if vector.is_cuda else _ROWS_AT_ONCE
        for first in range(0, len(weights), together):
            some = slice(first, first + together)
            vector.addmv_(self.matrix[some].T, weights[some])

    @torch.no_grad()
    def add_parts(self, vector: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Add a vector (entries,) to a gradient in place; None is left alone."""
        for (first, end), gradient in zip(pairwise(self._borders), gradients, strict=True):
            if gradient is not None:
                gradient.add_(vector[first:end].view(gradient.shape))

    def of_missing(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """The columns of the parameters whose gradient is None, shape (count, their entries)."""
        places = zip(pairwise(self._borders), gradients, strict=True)
        missing = [self.matrix[:, first:end] for (first, end), gradient in places if gradient is None]
        return torch.cat(missing, 1) if missing else self.matrix[:, :0]


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Rows times rows, (n, P) and (m, P) to (n, m) in float64, from float32 sums over `SUMMED` elements each.

    One float32 sum over millions of elements would be off by about 1e-3 of itself, which is much where gradients of
    several tasks nearly lie in a plane.
    """
    whole = left.shape[1] // SUMMED * SUMMED
    rest = left[:, whole:].double() @ right[:, whole:].double().T
    blocks = [side[:, :whole].reshape(len(side), whole // SUMMED, SUMMED).transpose(0, 1) for side in (left, right)]
    return rest + torch.bmm(blocks[0], blocks[1].transpose(1, 2)).sum(0, dtype=torch.float64)


def _vector(tensor: Tensor) -> Tensor:
    return tensor.flatten().to(torch.promote_types(tensor.dtype, torch.float32))

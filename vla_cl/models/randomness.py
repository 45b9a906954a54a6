"""Random numbers of a model that follow from a `Draw` and from nothing else, and the mode it is asked in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from vla_cl.random_numbers import Purpose, number


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random state seeded inside, the previous one put back after."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def keyed(sample_seeds: NDArray[np.int64]) -> list[torch.Generator]:
    """A generator of the CPU for each sample, seeded with the sample's own number."""
    return [torch.Generator().manual_seed(seed) for seed in sample_seeds.tolist()]


def sample_seeds(seed: int, count: int) -> NDArray[np.int64]:
    """Numbers for `keyed` that follow from one seed; the first ones are the same however many are asked for."""
    numbers = [number(seed, Purpose.GENERATED_SAMPLE, place) for place in range(count)]
    return np.asarray(numbers, dtype=np.int64)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the previous mode after."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def settle(module: nn.Module) -> None:
    """Evaluation mode for those layers of torch that average over a batch or draw dropout; other parts keep theirs.

    Dropout that a network applies by itself (``torch.nn.functional.dropout``) goes by its own mode, so it stays on.
    """
    for part in module.modules():
        if isinstance(part, _NormBase | _DropoutNd | nn.MultiheadAttention | nn.RNNBase):
            part.training = False

"""Ways of putting remembered samples into a batch. Each is another experiment, so each has a name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.types import Batch


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch behind the other; all must have the same keys and, but for the first dimension, the same shapes.

    Raises:
        ValueError: The keys differ.
    """
    keys = batches[0].keys()
    for other in batches[1:]:
        if other.keys() != keys:
            raise ValueError(f"cannot mix batches with different features: {sorted(keys)} and {sorted(other)}")
    result: Batch = {}
    for key in keys:
        values = [batch[key] for batch in batches]
        result[key] = torch.cat(values) if isinstance(values[0], torch.Tensor) else [x for part in values for x in part]
    return result


def take(batch: Batch, count: int) -> Batch:
    """The first ``count`` samples of a batch."""
    return {key: value[:count] for key, value in batch.items()}


def select(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """The samples at these positions of a batch, in this order."""
    chosen = torch.from_numpy(np.asarray(rows, dtype=np.int64))
    return {
        key: value[chosen.to(value.device)]
        if isinstance(value, torch.Tensor)
        else [value[row] for row in chosen.tolist()]
        for key, value in batch.items()
    }


def added(current: Batch, remembered: Batch) -> Batch:
    """All current samples and all remembered ones: a larger batch, more computation per step (LIBERO's ER)."""
    return concatenate([current, remembered])


def replaced(current: Batch, remembered: Batch) -> Batch:
    """Remembered samples take the place of as many current ones: same batch size, same computation per step."""
    total, count = len(current["task"]), len(remembered["task"])
    if count > total:
        raise ValueError(f"cannot replace {count} samples of a batch of {total}")
    return concatenate([take(current, total - count), remembered])

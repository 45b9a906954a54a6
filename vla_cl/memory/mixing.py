"""Ways of putting remembered samples into a batch. Each is another experiment, so each has a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vla_cl.random_numbers import Purpose, generator
from vla_cl.types import Batch, ConfigurationError

Mixing = Literal["added", "replaced", "coin_flip"]
MIXINGS: tuple[Mixing, ...] = ("added", "replaced", "coin_flip")

TOKEN_PADDING = {"input_ids": 0, "attention_mask": 0, "labels": -100}
"""What fills the shorter token sequences of a mixed batch on the right. The mask hides it, so the token is any one."""

_MAXIMAL_SHARE_ADDED = 8.0


class Mixture:
    """How many remembered samples a step has, and where they go.

    Args:
        name: ``added``: they come on top of the batch, at the cost of as many samples more; ``replaced``: they take the
            place of current ones, at the cost of a plain step; ``coin_flip``: in some steps the whole batch is
            remembered samples, in the others none is.
        share: Remembered samples per sample of the batch that the loop hands over; with ``coin_flip`` the probability
            of a step that only remembers. 0: nothing is replayed.
        allowed: The names that the method can do.

    Raises:
        ConfigurationError: The method cannot mix this way, or the share is out of range.
    """

    def __init__(self, name: Mixing, share: float, allowed: Sequence[Mixing] = MIXINGS) -> None:
        if name not in allowed:
            raise ConfigurationError(f"method.mixing must be one of {', '.join(allowed)}; got {name!r}")
        limit = _MAXIMAL_SHARE_ADDED if name == "added" else 1.0
        if not 0 <= share <= limit:
            raise ConfigurationError(f"method.share must be at least 0 and at most {limit} with {name!r}; got {share}")
        self.name = name
        self.share = share

    def count(self, total: int, seed: int, step: int) -> int:
        """How many remembered samples a step with ``total`` current ones gets; a pure function of the arguments."""
        if not self.share:
            return 0
        if self.name == "coin_flip":
            return total if generator(seed, Purpose.REPLAY_COIN, step).random() < self.share else 0
        return max(1, round(self.share * total))

    def current(self, total: int, count: int) -> int:
        """How many of ``total`` current samples stay in a step with ``count`` remembered ones."""
        return total if self.name == "added" else total - count

    def mix(self, current: Batch, remembered: Batch) -> Batch:
        """Current samples first, remembered ones behind them."""
        return added(current, remembered) if self.name == "added" else replaced(current, remembered)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch behind the other; all must have the same keys and, but for the first dimension, the same shapes.

    Token sequences may differ in length: the shorter ones are padded on the right (`TOKEN_PADDING`).

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
        if key in TOKEN_PADDING and values[0].ndim > 1:
            values = _equally_long(values, TOKEN_PADDING[key])
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


def _equally_long(sequences: Sequence[Tensor], padding: int) -> list[Tensor]:
    length = max(sequence.shape[1] for sequence in sequences)
    return [functional.pad(sequence, (0, length - sequence.shape[1]), value=padding) for sequence in sequences]

"""Ways of putting remembered samples into a batch. Each is another experiment, so each has a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vla_cl.random_numbers import Purpose, generator
from vla_cl.settings.rules import shown
from vla_cl.types import METHOD_KEY, Batch, ConfigurationError

Mixing = Literal["added", "replaced", "coin_flip"]
MIXINGS: tuple[Mixing, ...] = ("added", "replaced", "coin_flip")

TOKEN_PADDING = {"input_ids": 0, "attention_mask": 0, "labels": -100}
"""What fills the shorter token sequences of a mixed batch on the right. The mask hides it, so the token is any one."""

SIZE_WEIGHT = f"{METHOD_KEY}size_weight"
"""float32 (B,): see `Mixture.size_weight`; missing where it is 1."""

_MAXIMAL_SHARE_ADDED = 8.0
_FINEST = 100_000
"""A share is read as the nearest fraction with at most this denominator, so that 0.666667 of 3 samples are 2."""


class Mixture:
    """How many remembered samples a step has, and where they go.

    The number differs from step to step where the share of a batch is no whole number, by at most one, so that on
    average over the steps it is the share to the last sample: one half of a batch of one is every second step.

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
            raise ConfigurationError(
                f"method.share must be at least 0 and at most {limit} with {name!r}; got {shown(share)}"
            )
        if 0 < share < 1 / _FINEST:
            raise ConfigurationError(f"method.share must be 0 or at least {1 / _FINEST:g}; got {shown(share)}")
        self.name = name
        self.share = share
        self._fraction = Fraction(share).limit_denominator(_FINEST)

    def count(self, total: int, seed: int, step: int) -> int:
        """How many remembered samples a step with ``total`` current ones gets; a pure function of the arguments.

        But for ``coin_flip``: floor((step + 1) x) - floor(step x) with x = share * total, in whole numbers.
        """
        if not self.share:
            return 0
        if self.name == "coin_flip":
            return total if generator(seed, Purpose.REPLAY_COIN, step).random() < self.share else 0
        wanted = self._fraction * total
        return math.floor((step + 1) * wanted) - math.floor(step * wanted)

    def most(self, total: int) -> int:
        """The largest `count` of any step."""
        return total if self.name == "coin_flip" else math.ceil(self._fraction * total)

    def mean(self, total: int, of: Callable[[int], float] = float) -> float:
        """Mean over the steps of something that depends on `count`; by default of `count` itself.

        What weighs its samples by this instead of by their number in a step has the same weight on average, whatever
        the size of the batch; where the share is a whole number of samples the two are the same.
        """
        if self.name == "coin_flip":
            return (1 - self.share) * of(0) + self.share * of(total)
        wanted = self._fraction * total
        least = math.floor(wanted)
        more = float(wanted - least)
        return of(least) if not more else (1 - more) * of(least) + more * of(least + 1)

    def size_weight(self, total: int, count: int) -> float:
        """A step's number of samples over the mean number; 1 unless samples are added by turns.

        The mean loss of a step times this is the sum of its losses over a constant. So every sample weighs the same,
        that of a step with one sample more too, and on average over the steps the loss is that of the union.
        """
        return (total + count) / (total + self.mean(total)) if self.name == "added" else 1.0

    def current(self, total: int, count: int) -> int:
        """How many of ``total`` current samples stay in a step with ``count`` remembered ones."""
        return total if self.name == "added" else total - count

    def mix(self, current: Batch, remembered: Batch | None) -> Batch:
        """Current samples first, remembered ones behind them; None: this step has none."""
        if remembered is None:
            return current
        return added(current, remembered) if self.name == "added" else replaced(current, remembered)

    def union(self, current: Batch, remembered: Batch | None) -> Batch:
        """`mix`, with a note for `union_losses` where this step has another size than the mean of the steps."""
        total, mixed = len(current["task"]), self.mix(current, remembered)
        count = 0 if remembered is None else len(remembered["task"])
        if (weight := self.size_weight(total, count)) == 1:
            return mixed
        return {**mixed, SIZE_WEIGHT: torch.full((len(mixed["task"]),), weight)}


def union_losses(losses: Tensor, batch: Batch) -> Tensor:
    """Losses of a batch that `Mixture.union` gave, shape (B,), whose mean over the steps is that of the union."""
    return losses * batch[SIZE_WEIGHT].to(losses) if SIZE_WEIGHT in batch else losses


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

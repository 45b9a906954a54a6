"""What a model said of remembered samples when it had just learnt their task, and under which noise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vla_cl.interfaces import Distillable
from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.methods.saved_state import require_alike, whole_number
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.types import Draw

_ROWS_AT_ONCE = 64
Place = Sequence[int] | NDArray[np.int64]
"""Of a stored output: experience, row, draw."""


@dataclass
class _Entry:
    """Of one experience: n rows, K draws of noise each."""

    rows: NDArray[np.int64]  # ascending
    seeds: Tensor  # int64 (n, K)
    outputs: Tensor  # (n, K, ...)
    losses: Tensor  # float32 (n, K), or (n, 0) if they are not kept

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.outputs, self.seeds, self.losses))


class StoredOutputs:
    """Outputs of remembered samples, with the seed of the noise that each was computed under.

    Args:
        draws: Outputs kept of each sample, each under noise of its own.
        dtype: How outputs are kept.
        keep_losses: Whether the loss at that moment is kept too.
    """

    def __init__(self, draws: int, dtype: torch.dtype, keep_losses: bool = False) -> None:
        self.draws = draws
        self._dtype = dtype
        self._keep_losses = keep_losses
        self._entries: dict[int, _Entry] = {}

    @property
    def bytes(self) -> int:
        """Of outputs, seeds and losses."""
        return sum(entry.bytes for entry in self._entries.values())

    def bytes_of(self, numbers: int) -> int:
        """What a sample takes whose output has so many numbers: the output, the seed and the loss of each draw."""
        return self.draws * (numbers * self._dtype.itemsize + 8 + (4 if self._keep_losses else 0))

    def bytes_per_sample(self) -> dict[int, int]:
        """Of each experience, the same for all its samples."""
        return {experience: entry.bytes // len(entry.rows) for experience, entry in self._entries.items()}

    def compute(
        self, model: Distillable, memory: ReplayMemory, experience: int, train_seed: int, most: int | None = None
    ) -> None:
        """Store what the model says now, in evaluation mode, of all that is remembered of an experience.

        Args:
            model: As it is now.
            memory: What is remembered.
            experience: Which experience of it.
            train_seed: Of the run.
            most: Only of so many samples, the first.
        """
        everything = memory.everything()
        picks = everything[everything[:, 0] == experience]
        picks = picks[np.argsort(picks[:, 1])][:most]
        if not len(picks):
            return
        random = generator(train_seed, Purpose.STORED_OUTPUTS, experience)
        seeds = random.integers(2**62, size=(len(picks), self.draws))
        outputs: list[Tensor] = []
        losses: list[Tensor] = []
        with torch.no_grad(), evaluation_mode(model.module):
            for start in range(0, len(picks), _ROWS_AT_ONCE):
                batch = memory.fetch(picks[start : start + _ROWS_AT_ONCE])
                for place, column in enumerate(seeds[start : start + _ROWS_AT_ONCE].T):
                    seed = number(train_seed, Purpose.STORED_OUTPUTS_BATCH, experience, start, place)
                    found = model.forward_pass(batch, Draw(seed, np.ascontiguousarray(column)))
                    outputs.append(found.outputs.to("cpu", self._dtype))
                    losses.append(found.losses.float().cpu())
        shape = tuple(np.max([tensor.shape[1:] for tensor in outputs], axis=0).tolist())
        by_draw = [torch.cat([_fitted(part, shape) for part in outputs[k :: self.draws]]) for k in range(self.draws)]
        of_draw = [torch.cat(losses[k :: self.draws]) for k in range(self.draws if self._keep_losses else 0)]
        kept = torch.stack(of_draw, 1) if of_draw else torch.empty(len(picks), 0)
        self._entries[experience] = _Entry(picks[:, 1].copy(), torch.from_numpy(seeds), torch.stack(by_draw, 1), kept)

    def keep_only(self, everything: NDArray[np.int64]) -> None:
        """Forget the outputs of samples that the memory has forgotten; ``everything`` is `ReplayMemory.everything`."""
        for experience, entry in list(self._entries.items()):
            stays = np.isin(entry.rows, everything[everything[:, 0] == experience, 1])
            if not stays.any():
                del self._entries[experience]
            elif not stays.all():
                where = torch.from_numpy(np.flatnonzero(stays))
                tensors = (tensor[where] for tensor in (entry.seeds, entry.outputs, entry.losses))
                self._entries[experience] = _Entry(entry.rows[stays], *tensors)

    def seed(self, place: Place) -> int:
        """Of the noise."""
        entry, position = self._find(place)
        return int(entry.seeds[position])

    def output(self, place: Place) -> Tensor:
        """What was stored, shape (...); not to be changed."""
        entry, position = self._find(place)
        return entry.outputs[position]

    def loss(self, place: Place) -> float:
        """The sample's loss when its output was stored."""
        entry, position = self._find(place)
        return float(entry.losses[position])

    def replace(self, place: Place, output: Tensor) -> None:
        """Store another output, of the same shape."""
        entry, position = self._find(place)
        entry.outputs[position] = output.to("cpu", self._dtype)

    def outputs(self) -> dict[str, Tensor]:
        """``outputs.<experience>``: what `replace` changes; not to be changed."""
        return {f"outputs.{experience}": entry.outputs for experience, entry in self._entries.items()}

    def put_outputs(self, outputs: Mapping[str, Tensor]) -> None:
        """Store others of the same samples, as `outputs` gives them.

        Raises:
            ValueError: They are of other samples.
        """
        require_alike("the stored outputs", outputs, self.outputs())
        for experience, entry in self._entries.items():
            entry.outputs.copy_(outputs[f"outputs.{experience}"])

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, by experience."""
        state = {}
        for experience, entry in self._entries.items():
            state[f"rows.{experience}"] = torch.from_numpy(entry.rows.copy())
            state[f"seeds.{experience}"] = entry.seeds.clone()
            state[f"outputs.{experience}"] = entry.outputs.clone()
            if self._keep_losses:
                state[f"losses.{experience}"] = entry.losses.clone()
        return state

    def shapes(self) -> dict[str, list[int]]:
        """Experience to the shape of one of its outputs; plain data."""
        return {str(experience): list(entry.outputs.shape[2:]) for experience, entry in self._entries.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], shapes: object, everything: NDArray[np.int64]) -> None:
        """Continue with what `state_dict` and `shapes` gave.

        Args:
            state: The tensors.
            shapes: Of the outputs.
            everything: `ReplayMemory.everything`: there must be outputs of all of it, and of nothing else.

        Raises:
            ValueError: These are no stored outputs, or those of other samples, or another number of draws of each.
        """
        rows_of = {
            int(experience): np.sort(everything[everything[:, 0] == experience, 1])
            for experience in np.unique(everything[:, 0])
        }
        if not isinstance(shapes, Mapping) or shapes.keys() != {str(experience) for experience in rows_of}:
            raise ValueError(f"expected outputs of the experiences {sorted(rows_of)}; the checkpoint holds {shapes}")
        expected = {}
        for experience, rows in rows_of.items():
            one = [whole_number("a size of an output", size) for size in shapes[str(experience)]]
            count = (len(rows), self.draws)
            expected[f"rows.{experience}"] = torch.from_numpy(rows)
            expected[f"seeds.{experience}"] = torch.empty(count, dtype=torch.int64, device="meta")
            expected[f"outputs.{experience}"] = torch.empty(*count, *one, dtype=self._dtype, device="meta")
            if self._keep_losses:
                expected[f"losses.{experience}"] = torch.empty(count, device="meta")
        require_alike("the stored outputs", state, expected)
        for experience in rows_of:
            self._require_sound(state, experience, expected[f"rows.{experience}"])
        self._entries = {
            experience: _Entry(
                rows,
                state[f"seeds.{experience}"].clone(),
                state[f"outputs.{experience}"].clone(),
                state[f"losses.{experience}"].clone() if self._keep_losses else torch.empty(len(rows), 0),
            )
            for experience, rows in rows_of.items()
        }

    def _require_sound(self, state: Mapping[str, Tensor], experience: int, rows: Tensor) -> None:
        if not torch.equal(state[f"rows.{experience}"], rows):
            raise ValueError(f"rows.{experience} are not the rows that the memory holds of this experience")
        if bool((state[f"seeds.{experience}"] < 0).any()):
            raise ValueError(f"seeds.{experience} holds negative numbers")
        for kind in ("outputs", "losses") if self._keep_losses else ("outputs",):
            values = state[f"{kind}.{experience}"]
            if bool(torch.isnan(values).any()):
                raise ValueError(f"{kind}.{experience} holds entries that are not numbers")
            if values.dtype != torch.float16 and bool(torch.isinf(values).any()):  # float16 ends at 65504
                raise ValueError(f"{kind}.{experience} holds entries that are infinite")

    def _find(self, place: Place) -> tuple[_Entry, tuple[int, int]]:
        experience, row, draw = (int(number) for number in place)
        entry = self._entries[experience]
        return entry, (int(np.searchsorted(entry.rows, row)), draw)


def stacked(outputs: Sequence[Tensor], like: Tensor) -> Tensor:
    """Stored outputs as a batch of the shape (len(outputs), *like.shape[1:]), of its type and on its device.

    A sequence that was padded otherwise when its output was stored is cut or filled with zeros; what is there is
    padding, which no distance looks at.
    """
    shape = tuple(like.shape[1:])
    return torch.cat([_fitted(output[None], shape) for output in outputs]).to(like)


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each part is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _fitted(batch: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Cut or filled with zeros to the shape (len(batch), *shape)."""
    if tuple(batch.shape[1:]) == shape:
        return batch
    missing = [size - present for size, present in zip(shape, batch.shape[1:], strict=True)]
    return functional.pad(batch, [number for size in reversed(missing) for number in (0, size)])

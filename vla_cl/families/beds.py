"""The test beds as families: small models with three tasks each, which learn and forget in seconds and need no file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from vla_cl.evaluation.held_out import HeldOutEvaluator
from vla_cl.interfaces import Data, Family, Method, Model
from vla_cl.memory.mixing import concatenate
from vla_cl.testbeds import BEDS
from vla_cl.testbeds.bed import Tensors
from vla_cl.types import ConfigurationError, Experience, Stream, Task


class BedFamily(Family):
    """One test bed (`vla_cl.testbeds`).

    Args:
        bed: Which one.
        device: Torch device; the models are small, so it must be the processor.

    Raises:
        ConfigurationError: There is no such test bed, or another device was asked for.
    """

    threads = 1  # with more, models this small wait for threads that other programs hold up

    def __init__(self, bed: str, device: str = "cpu") -> None:
        if bed not in BEDS:
            raise ConfigurationError(f"family.bed must be one of {', '.join(BEDS)}; got {bed!r}")
        if device not in ("cpu", "auto"):
            raise ConfigurationError(f"device={device} is not possible: test beds run on the processor; use device=cpu")
        self.bed, self.device = bed, device
        self.name = f"bed_{bed}"
        self._bed = BEDS[bed]()

    def tasks(self) -> Sequence[Task]:
        """The bed's three."""
        return self._bed.stream.tasks

    def check(self, stream: Stream, method: Method) -> None:
        """The method must fit the model, and the name the bed."""
        if self.name != f"bed_{self.bed}":
            raise ConfigurationError(
                f"family.bed={self.bed} is not the bed of family={self.name}; use stream=bed_{self.bed}"
            )
        copy.deepcopy(method).attach(self._bed.make_model(0), 0)

    def new_model(self, first: Experience, seed: int) -> Model:
        """A model with fresh weights."""
        return self._bed.make_model(seed)

    def load_model(self, folder: Path) -> Model:
        """As the bed's model is loaded."""
        return self._bed.load_model(folder)

    def data(self, experience: Experience, model: Model) -> Data:
        """The samples of the experience's tasks."""
        known = [task.id for task in self.tasks()]
        parts = [self._bed.data[known.index(task.id)] for task in experience.tasks]
        return parts[0] if len(parts) == 1 else Tensors(concatenate([part.samples for part in parts]))

    def evaluator(self) -> HeldOutEvaluator:
        """Held-out samples, by the bed's measures."""
        ids = [task.id for task in self.tasks()]
        return HeldOutEvaluator(dict(zip(ids, self._bed.held_out, strict=True)), self._bed.scores)

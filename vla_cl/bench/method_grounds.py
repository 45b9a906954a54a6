"""What a method's step is timed on: a model, experiences and their data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vla_cl.interfaces import Data, Model
from vla_cl.types import Experience

GENERATING: Mapping[str, Sequence[str]] = {
    "generative_replay": ("language", "diffusion"),
    "generative_distillation": ("language", "diffusion"),
    "lamol": ("language",),
}
"""Methods that need a model that can generate, which NanoVLA cannot, and the test beds that they are timed on."""


@dataclass(frozen=True)
class Ground:
    """A model and what it learns; the last experience is timed.

    Attributes:
        title: For people.
        make_model: A new model, always the same one.
        experiences: In the order in which they are learnt.
        data: Of each experience.
    """

    title: str
    make_model: Callable[[], Model]
    experiences: Sequence[Experience]
    data: Sequence[Data]

    @property
    def past(self) -> int:
        """Experiences learnt before the one that is timed."""
        return len(self.experiences) - 1


def of_bed(name: str) -> Ground:
    """A test bed as it is."""
    from vla_cl.testbeds import BEDS

    bed = BEDS[name]()
    return Ground(f"the {name} test bed", lambda: bed.make_model(0), bed.stream.experiences, bed.data)

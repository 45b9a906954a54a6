"""What a LeRobot policy gives beyond LeRobot's interface: its class declares it by subclassing what is here.

Batches are LeRobot's: a flat dictionary after the policy's pre-processor, B samples on the policy's device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class GivesOutputs(ABC):
    """A policy whose outputs can be compared with a teacher's: `Ability.OUTPUTS`."""

    @abstractmethod
    def forward_pass(self, batch: dict[str, Any], *args: Any, **noise: Any) -> dict[str, Tensor]:  # noqa: ANN401
        """All that methods of continual learning compare, from one pass in the present mode.

        Args:
            batch: The samples.
            *args: Never given; a policy names its noise here (``noise=None, time=None``) and draws what is not given.
            **noise: What `GivesKeyedDraws.draw` gave, by the names that it gave.

        Returns:
            ``losses`` (B,); ``outputs`` (B, chunk_size, A); and of a policy that is `GivesModalities` an embedding
            (B, D) under the name of each modality.
        """

    @property
    def fixed_outputs(self) -> bool:
        """Whether training outputs depend on the sample alone, with these settings: `Ability.FIXED_OUTPUTS`."""
        return False


class GivesModalities(GivesOutputs):
    """A policy whose `forward_pass` also gives embeddings of what is perceived: `Ability.MODALITIES`."""

    @property
    @abstractmethod
    def modalities(self) -> tuple[str, ...]:
        """Their names, in the order of `forward_pass`; none takes the ability away."""


class GivesKeyedDraws(ABC):
    """A policy whose noise can be chosen for each sample: `Ability.KEYED_DRAWS`."""

    @abstractmethod
    def draw(self, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """What ``forward`` takes in place of noise of its own, by argument: each sample's from its own generator.

        Args:
            generators: Of the CPU, one for each of the B samples.
        """


class GivesFeatures(ABC):
    """A policy with an embedding of each sample: `Ability.FEATURES`."""

    @abstractmethod
    def features(self, batch: dict[str, Any]) -> Tensor:
        """The embedding of what it sees and is told, shape (B, D)."""


class SharesComputation(ABC):
    """A policy that computes something once for several samples, which gradients per sample do not allow."""

    @abstractmethod
    def independent_samples(self) -> AbstractContextManager[None]:
        """Inside, nothing is shared, so that each layer's batch dimension is the samples'."""

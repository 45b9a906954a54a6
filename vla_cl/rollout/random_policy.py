"""A policy that acts at random: the success that costs nothing, and a way through every suite without any weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Policy
from vla_cl.random_numbers import Purpose, generator
from vla_cl.types import Batch, ConfigurationError, Draw, InterfaceSpec, Observation, SuiteSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class RandomPolicy(Policy):
    """Uniform in a suite's action range, yet a pure function of the observation.

    The state and the instruction (and the pictures, where there is no state) seed the generator. So a chunk depends
    neither on the batch nor on the order of the calls, and not on how many actions are predicted: the first actions of
    a longer chunk are those of a shorter one.

    Args:
        suite: What the policy has to fit.
        chunk_size: Actions predicted at once.
        seed: Another seed gives another policy.

    Raises:
        ConfigurationError: The suite declares no finite action range, or a number is out of range.
    """

    def __init__(self, suite: SuiteSpec, chunk_size: int = 8, seed: int = 0) -> None:
        if chunk_size < 1:
            raise ConfigurationError(f"random.chunk_size must be at least 1; got {chunk_size}")
        if seed < 0:
            raise ConfigurationError(f"random.seed is a whole number from 0; got {seed}")
        bounds = suite.action_low, suite.action_high
        if any(len(bound) != suite.action_size or not np.isfinite(bound).all() for bound in bounds):
            raise ConfigurationError(
                f"a random policy needs a finite range for each of the {suite.action_size} numbers of an action, but "
                f"the suite declares action_low={suite.action_low} and action_high={suite.action_high}; declare them "
                "in its spec, or give a policy that was trained"
            )
        self._low, self._high = (np.asarray(bound, np.float32) for bound in bounds)
        self._chunk_size = chunk_size
        self._seed = seed
        self._spec = InterfaceSpec(
            suite.cameras,
            suite.state_size,
            suite.action_size,
            suite.render_profile,
            suite.control_mode,
            suite.image_orientation,
        )

    @property
    def spec(self) -> InterfaceSpec:
        """The suite's."""
        return self._spec

    @property
    def chunk_size(self) -> int:
        """Actions predicted at once."""
        return self._chunk_size

    def act(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """A chunk for each observation, float32 (B, chunk_size, A), inside the action range."""
        return np.stack([self._chunk(observation) for observation in observations])

    def _chunk(self, observation: Observation) -> NDArray[np.float32]:
        content = hashlib.blake2b(observation.instruction.encode(), digest_size=16)
        content.update(np.ascontiguousarray(observation.state, np.float32).tobytes())
        if not observation.state.size:
            for key in sorted(observation.images):
                content.update(np.ascontiguousarray(observation.images[key]).tobytes())
        random = generator(self._seed, Purpose.RANDOM_POLICY, int.from_bytes(content.digest(), "little"))
        shares = random.random((self._chunk_size, len(self._low)), np.float32)
        chunk: NDArray[np.float32] = np.clip(self._low + shares * (self._high - self._low), self._low, self._high)
        return chunk

    @property
    def module(self) -> nn.Module:
        """There is none."""
        self._refuse()

    @property
    def device(self) -> torch.device:
        """There is none."""
        self._refuse()

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """There is none."""
        self._refuse()

    def features(self, batch: Batch) -> Tensor:
        """There are none."""
        self._refuse()

    def save(self, folder: Path) -> None:
        """There is nothing to save."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigurationError("a random policy has no weights: it can be rolled out, not trained or saved")

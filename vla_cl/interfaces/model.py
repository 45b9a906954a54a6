"""What learns: anything with a loss, and what it can give beyond that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.random_numbers import Purpose, number
from vla_cl.types import Ability, Batch, Confidence, Draw, ForwardPass, InterfaceSpec, Observation, Roles

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Model(ABC):
    """Anything with a loss: a policy, a language model, a diffusion model. Wraps a `torch.nn.Module`."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What is trained; its ``parameters()`` are what a method may regularise, mask or grow."""

    @abstractmethod
    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """One value per sample, shape (B,); the caller reduces."""

    def uncounted_state(self) -> dict[str, Tensor]:
        """What steps change beside parameters and buffers, such as a counter; most models have nothing of the kind."""
        return {}

    def load_uncounted_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most have nothing to put back
        """Put back what `uncounted_state` gave."""

    def features(self, batch: Batch) -> Tensor:
        """An embedding for routers and selection, shape (B, D), without gradient; with `Ability.FEATURES`."""
        raise NotImplementedError(f"{self.name} declares no features")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything inference needs into ``folder``, in the format of the model's own ecosystem."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the parameters live."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """What this model can give beyond its loss; must not change during a run."""
        return frozenset({Ability.PER_SAMPLE_LOSSES, Ability.FEATURES})

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def roles(self) -> Roles | None:
        """What its parameters are for; None if it does not tell.

        Raises:
            ConfigurationError: It tells of its kind, but this one has parameters that it does not know.
        """
        return None

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Optimizer groups of what is trainable; a group may set its own ``lr``."""
        return [{"params": [p for p in self.module.parameters() if p.requires_grad], "lr": learning_rate}]

    def independent_samples(self) -> AbstractContextManager[None]:
        """Inside, no computation is shared between samples, so that each layer's batch dimension is the samples'.

        For gradients per sample; a model that computes something once for several samples (an instruction that they
        share) overrides this.
        """
        return nullcontext()


class Distillable(Model):
    """A model whose outputs can be compared with a teacher's."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of `ForwardPass.modalities`, told before there is one; none without `Ability.MODALITIES`."""
        return ()

    @abstractmethod
    def forward_pass(self, batch: Batch, draw: Draw) -> ForwardPass:
        """Losses, outputs and inner features from one forward pass."""

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float = 2.0) -> Tensor:
        """How far a student's outputs are from a teacher's, one value per sample, shape (B,); zero where they agree.

        The mean squared difference of actions, velocities or noise, over what is not padding. For tokens T^2 times the
        Kullback-Leibler divergence from teacher to student at ``temperature`` T (Hinton et al. 2015, arXiv 1503.02531),
        averaged over the tokens that are learnt from.
        """

    def squared_error(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Mean squared difference of the outputs that are compared, shape (B,).

        That is `distance`, unless the model measures its distances otherwise: of tokens, the mean over vocabulary and
        tokens that are learnt from.
        """
        return self.distance(student, teacher, batch)

    def counted(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Which outputs say something, bool, of a shape that is broadcast to that of the outputs (B, ...).

        Of tokens those that are learnt from. Of anything else all: a policy says an action behind the end of an episode
        too, whatever the data hold there.
        """
        return outputs.new_ones((len(outputs),) + (1,) * (outputs.ndim - 1)).bool()

    def drawn_targets(self, outputs: Tensor, batch: Batch, seeds: NDArray[np.int64]) -> Tensor:
        """Targets drawn from the distribution that outputs stand for, as a teacher's outputs; for the Fisher.

        Here outputs are means of normal distributions of unit variance. A model of tokens draws one at each place.

        Args:
            outputs: Shape (B, ...), without gradient.
            batch: The samples.
            seeds: A number per sample, shape (B,); a sample's target follows from its own alone.
        """
        import torch

        generators = [torch.Generator().manual_seed(number(seed, Purpose.DRAWN_TARGET)) for seed in seeds.tolist()]
        noise = [torch.randn(outputs.shape[1:], generator=generator) for generator in generators]
        return outputs + torch.stack(noise).to(outputs)

    def confidence(self, outputs: Tensor, batch: Batch) -> Confidence | None:
        """How sure the model is of what is right; None for a model whose outputs are no probabilities."""
        return None

    def outputs(self, batch: Batch, draw: Draw) -> Tensor:
        """What distillation compares, shape (B, ...)."""
        return self.forward_pass(batch, draw).outputs

    def answer_as_teacher(self, student_is_training: bool) -> None:
        """Put the module into the mode in which it answers as a teacher: evaluation mode (Li & Hoiem 2016).

        A model whose inputs depend on the mode (augmentation) overrides this, so that teacher and student see the same
        inputs under the same draw.
        """
        self.module.eval()


class Generator(Model):
    """A model that can make up samples of what it has learnt."""

    @abstractmethod
    def generate(self, tasks: Sequence[str], seed: int) -> Batch:
        """One new sample for each entry of ``tasks`` (the ``task`` of the samples to imitate), as a `Batch`.

        A pure function of the weights, the tasks and the seed.
        """


class Policy(Model):
    """A model that acts."""

    @property
    @abstractmethod
    def spec(self) -> InterfaceSpec:
        """Cameras, state and action sizes that the policy expects."""

    @property
    @abstractmethod
    def chunk_size(self) -> int:
        """Actions predicted at once."""

    @property
    def observation_offsets(self) -> Sequence[int]:
        """Frames that it looks at when it acts, relative to the present one."""
        return (0,)

    @abstractmethod
    def act(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """A chunk of actions for each observation, in the suite's units, shape (B, chunk_size, A).

        An observation's chunk does not depend on what else is in the batch.
        """

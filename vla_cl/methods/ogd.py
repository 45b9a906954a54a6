"""OGD: gradients, or the steps taken with them, are orthogonal to the gradients of the past tasks' samples.

Farajtabar et al., "Orthogonal gradient descent for continual learning", AISTATS 2020, arXiv 1910.07104. The variant
with one vector per sample, the gradient of its mean output (OGD-AVE in the paper); or, for models whose outputs cannot
be had, of its loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vla_cl.interfaces import Data, Distillable, Method, Model
from vla_cl.methods.checked_settings import check_count
from vla_cl.methods.gradient_vectors import GradientRows, gradients_of
from vla_cl.methods.quadratic_penalty import trainable
from vla_cl.methods.saved_state import require_alike, require_keys, whole_number
from vla_cl.methods.step_projection import Project, StepTaken, check_project, require_fine_weights
from vla_cl.methods.stored_outputs import evaluation_mode, outputs_that_count
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.types import Ability, ConfigurationError, Draw, Experience, MethodCard

Of = Literal["outputs", "loss"]
OF: tuple[Of, ...] = ("outputs", "loss")

_NEW = 1e-4
"""Share of a vector's length that must be left beside the basis; less is rounding."""

_ROUNDING = 1e-6
"""Of products of the basis's vectors."""

_OFF_ONE = 1e-3
"""How far the length of a vector of the basis may be from one."""


class OrthogonalGradientDescent(Method):
    """Projection onto the complement of an orthonormal basis V of past gradients.

    With ``project: gradient``, as published, gradients are orthogonal to V, and so is a step of gradient descent
    without momentum and weight decay (the paper's optimizer), clipped or not; one of AdamW is not. With ``project:
    step`` the weights' change d by the optimizer, with its momentum, scaling and weight decay, is projected, so that
    V d is 0 but for the rounding of the weights; the optimizer's moments stay as they are. Either way V spans gradients
    that were taken in evaluation mode at the end of each past task: near those weights, to first order, the past
    samples' mean outputs (or losses) do not change; the further the weights move, the less is promised.

    A projection reads the basis twice: 8 bytes per parameter and vector.

    Args:
        vectors_per_task: Samples of each task whose gradients are kept, 4 bytes per parameter each; 0 is sequential
            fine-tuning.
        of: What is differentiated, in evaluation mode: the mean of a sample's ``outputs``, as in the paper (of tokens,
            those that are learnt from), or its ``loss``, which any model has.
        project: The ``gradient``, before clipping, as the paper does, or the optimizer's ``step``.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "ogd"
    card = MethodCard(
        title="Orthogonal gradient descent (OGD)",
        paradigm="regularisation",
        equation=r"g \leftarrow g - V^\top V g",
        source="Farajtabar et al., AISTATS 2020, arXiv 1910.07104",
        step="1, and 8 n bytes per parameter moved for n vectors",
        memory="4 n bytes per parameter; with project=step 4 more during a step",
        follows=(
            "one vector per sample (OGD-AVE). Not followed: gradient descent; as published nothing is promised of "
            "AdamW's steps, with project=step it is of every optimizer's."
        ),
    )

    def __init__(self, vectors_per_task: int = 20, of: Of = "outputs", project: Project = "gradient") -> None:
        check_count("vectors_per_task", vectors_per_task, 0)
        if of not in OF:
            raise ConfigurationError(f"method.of must be one of {', '.join(OF)}; got {of!r}")
        check_project(project)
        self.project = project
        self._taken = StepTaken()
        self._moved: list[bool] = []  # which parameters the step moves, from `edit_gradients` to `after_step`
        self.vectors_per_task = vectors_per_task
        self.of = of
        self.needs = frozenset({Ability.OUTPUTS}) if of == "outputs" else frozenset()
        self.basis: list[GradientRows] = []

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.vectors_per_task > 0

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: The step is to be projected, and the weights are too coarse for it.
        """
        super().attach(model, train_seed)
        require_fine_weights(model.module, self.name, self.project)

    def begin_task(self, experience: Experience) -> None:
        """Refuse a model that learns with other parameters than before.

        Raises:
            ConfigurationError: It does.
        """
        size = sum(parameter.numel() for parameter in self._parameters())
        if self.basis and self.basis[0].matrix.shape[1] != size:
            raise ConfigurationError(
                f"method 'ogd' keeps gradients of {self.basis[0].matrix.shape[1]:,} parameters, but {size:,} learn "
                f"in {experience.name!r}; the same ones must learn in every task"
            )

    def edit_gradients(self) -> None:
        """Take out of the gradient what lies in the span of the basis; or note the weights before the step."""
        if not self.basis:
            return
        parameters = self._parameters()
        gradients = [parameter.grad for parameter in parameters]
        if self.project == "gradient":
            self._take_out(gradients, gradients)
            return
        self._moved = [gradient is not None for gradient in gradients]
        self._taken.begin([parameter for parameter, moved in zip(parameters, self._moved, strict=True) if moved])

    def after_step(self) -> None:
        """With ``project: step``, take out of the weights' change what lies in the span of the basis."""
        if not self._moved:
            return
        changes = iter(self._taken.change())
        change = [next(changes) if moved else None for moved in self._moved]
        weights = [
            parameter if moved else None for parameter, moved in zip(self._parameters(), self._moved, strict=True)
        ]
        self._take_out(change, weights)
        self._moved = []

    def _take_out(self, vector: Sequence[Tensor | None], edited: Sequence[Tensor | None]) -> None:
        """Subtract the part of a vector in the span of the basis. None: a parameter that does not move.

        Args:
            vector: A gradient or a step, one tensor per parameter.
            edited: What it is subtracted from, in place.
        """
        flat = self.basis[0].flat(vector)
        shares = [block.products(flat) for block in self.basis]  # the basis is orthonormal, so all at once
        if any(part is None for part in vector):
            shares = self._shares_of_the_rest(vector, shares)
        flat.zero_()
        for block, share in zip(self.basis, shares, strict=True):
            block.add_to(flat, -share)
        self.basis[0].add_parts(flat, edited)

    def _shares_of_the_rest(self, vector: Sequence[Tensor | None], shares: list[Tensor]) -> list[Tensor]:
        """Factors that make a vector orthogonal where parameters are missing: there the basis is not orthonormal."""
        missing = torch.cat([block.of_missing(vector) for block in self.basis]).double()
        gram = torch.eye(len(missing), dtype=missing.dtype, device=missing.device) - missing @ missing.T
        factors = torch.linalg.pinv(gram, rtol=_ROUNDING, hermitian=True) @ torch.cat(shares)
        return list(factors.split([len(share) for share in shares]))

    def end_task(self, experience: Experience, data: Data) -> None:
        """Extend the basis by the gradients of some samples; those that lie in its span already add nothing."""
        count = min(self.vectors_per_task, len(data))
        if not count:
            return
        random = generator(self.train_seed, Purpose.BASIS_ROWS, experience.index)
        rows = np.sort(random.choice(len(data), size=count, replace=False))
        parameters = self._parameters()
        block = GradientRows(count, parameters)
        used = 0
        with evaluation_mode(self.model.module):
            for row in rows.tolist():
                block.write(used, self._sample_gradient(data, row, experience.index, parameters))
                used += self._orthonormalise(block.matrix, used)
        if used:
            block.matrix = block.matrix[:used] if used == count else block.matrix[:used].clone()
            self.basis.append(block)

    def _sample_gradient(self, data: Data, row: int, experience: int, parameters: list[nn.Parameter]) -> list[Tensor]:
        batch = data.batch(np.array([row]))
        draw = Draw(number(self.train_seed, Purpose.BASIS_LOSS, experience, row))
        if self.of == "loss":
            return gradients_of(self.model.loss(batch, draw).mean(), parameters)
        assert isinstance(self.model, Distillable)  # `needs` says so
        return gradients_of(outputs_that_count(self.model.outputs(batch, draw), batch).mean(), parameters)

    @torch.no_grad()
    def _orthonormalise(self, block: Tensor, row: int) -> bool:
        """Make a row orthogonal to all before it and of length one; False if nothing is left of it.

        Twice: what rounding leaves of the first time is itself a projection away (Giraud et al. 2005, "twice is
        enough").
        """
        vector = block[row]
        length = torch.linalg.vector_norm(vector, dtype=torch.float64)
        for _ in range(2):
            for earlier in (*(kept.matrix for kept in self.basis), block[:row]):
                vector -= (earlier @ vector) @ earlier
        left = torch.linalg.vector_norm(vector, dtype=torch.float64)
        if not bool(left > _NEW * length):
            return False
        vector /= left
        return True

    def _parameters(self) -> list[nn.Parameter]:
        return list(trainable(self.model.module).values())

    def memory_bytes(self) -> int:
        """The basis: 4 bytes per parameter and vector."""
        return sum(block.matrix.numel() * block.matrix.element_size() for block in self.basis)

    def state_dict(self) -> dict[str, Tensor]:
        """The basis, ``basis.<number>`` for the vectors of one task."""
        return {f"basis.{number:03d}": block.matrix for number, block in enumerate(self.basis)}

    def extra_state(self) -> dict[str, object]:
        """How many vectors each part of the basis has."""
        return {"vectors": [len(block.matrix) for block in self.basis]}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Continue with the same basis.

        Raises:
            ValueError: The checkpoint is another method's, or of another model, or its vectors are not of length one.
        """
        require_keys("OGD", extra, ["vectors"])
        counts = extra["vectors"]
        if not isinstance(counts, list):
            raise ValueError(f"vectors must be a list of numbers; the checkpoint holds {str(counts)[:40]!r}")
        parameters = self._parameters()
        basis = [GradientRows(whole_number("vectors", count, 1), parameters) for count in counts]
        blocks = {f"basis.{number:03d}": block.matrix for number, block in enumerate(basis)}
        require_alike("OGD", state, blocks)
        for key, matrix in blocks.items():
            lengths = torch.linalg.vector_norm(state[key], dim=1)
            if not bool(((lengths - 1).abs() < _OFF_ONE).all()):
                raise ValueError(f"the vectors of a basis are of length one, but those of {key} are not")
            matrix.copy_(state[key])
        self.basis = basis

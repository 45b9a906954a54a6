"""M2Distill: what is perceived shall look to the model as it did before the task, modality by modality.

Roy, Dissanayake, Tidd & Moghadam, "M2Distill: multi-modal distillation for lifelong imitation learning", arXiv
2410.00064: squared distances between the embeddings of old and new model (vision, language, the robot's state) and
between their policies. The weights of the terms are not published; those here are our own. Two things differ: the
policies are compared by the model's own distance of outputs (the paper's are Gaussian mixtures, compared by sampling),
and nothing is replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from vla_cl.interfaces import Data, Distillable, Model
from vla_cl.methods.checked_settings import (
    MAX_STRENGTH,
    check_strength,
    check_temperature,
    checked_numbers,
    refuse_idle,
)
from vla_cl.methods.task_counting import TaskCountingMethod
from vla_cl.methods.teacher import Teacher, teacher_bytes
from vla_cl.settings.rules import shown
from vla_cl.types import Ability, Batch, ConfigurationError, Draw, Experience, MethodCard


class M2Distill(TaskCountingMethod):
    """Loss + sum over modalities of strength x mean squared difference of embeddings + strength x distance of outputs.

    An embedding's squared differences are averaged over its dimensions, so that strengths do not depend on its size.
    With all strengths 0 it is sequential fine-tuning.

    Args:
        strength: Weight of each modality that ``strengths`` does not name.
        strengths: Weights of single modalities, by the model's names for them (NanoVLA: vision, text, state).
        outputs_strength: Weight of the distance between the outputs.
        temperature: Of the distance between outputs, for models of tokens.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "m2distill"
    card = MethodCard(
        title="M2Distill, distillation by modality",
        paradigm="regularisation",
        equation=(
            r"\ell_t(\theta) + \sum_m \lambda_m \frac{1}{d_m} \| h_m(\theta) - h_m(\theta_{t-1}) \|^2 "
            r"+ \lambda_o\, D\left(f_\theta(x), f_{\theta_{t-1}}(x)\right)"
        ),
        source="Roy et al. 2024, arXiv 2410.00064; the weights of the terms are not published",
        step="1 + a forward pass",
        memory="the teacher (4 bytes per trainable parameter)",
        follows=(
            "squared differences of embeddings of each modality. Not followed: the comparison of Gaussian "
            "mixtures by sampling (the model's own distance stands for it), and replay."
        ),
    )
    needs = frozenset({Ability.OUTPUTS, Ability.MODALITIES})

    def __init__(
        self,
        strength: float = 1.0,
        strengths: Mapping[str, float] | None = None,
        outputs_strength: float = 1.0,
        temperature: float = 2.0,
    ) -> None:
        self.strengths = checked_numbers("strengths", strengths, 0, MAX_STRENGTH)
        check_strength("strength", strength)
        check_strength("outputs_strength", outputs_strength)
        check_temperature(temperature)
        if not outputs_strength:
            refuse_idle(type(self), {"temperature": temperature}, "outputs_strength", outputs_strength)
        self.strength = strength
        self.outputs_strength = outputs_strength
        self.temperature = temperature
        self._teacher: Teacher | None = None

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return bool(self.strength or self.outputs_strength or any(self.strengths.values()))

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: ``strengths`` names a modality that the model does not have, or it names all of them
                and so leaves nothing to ``strength``.
        """
        super().attach(model, train_seed)
        known = self._student.modalities
        for modality in self.strengths:
            if modality not in known:
                raise ConfigurationError(
                    f"method.strengths names the modality {shown(modality)}; {model.name} has {', '.join(known)}"
                )
        if self.acts and not (self.outputs_strength or any(map(self._weight, known))):
            raise ConfigurationError(
                f"method 'm2distill' would compare nothing: method.strengths sets each of {', '.join(known)} of "
                f"{model.name} to 0, and method.outputs_strength is 0; raise one, or use method=sequential"
            )
        if self.strength and self.strengths.keys() == set(known):
            refuse_idle(type(self), {"strength": self.strength}, "strengths", self.strengths)

    def begin_task(self, experience: Experience) -> None:
        """Copy the teacher; nothing in the first task."""
        self._teacher = Teacher(self._student) if self.tasks_learnt and self.acts else None

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """The loss and, from the second task on, the weighted distances, shape (B,)."""
        if self._teacher is None:
            return self.model.loss(batch, draw)
        student, teacher = self._student.forward_pass(batch, draw), self._teacher.forward_pass(batch, draw)
        total = student.losses
        for modality, embedding in student.modalities.items():
            if weight := self._weight(modality):
                squares = (embedding - teacher.modalities[modality]).square()
                total = total + weight * squares.flatten(1).mean(1)
        if self.outputs_strength:
            total = total + self.outputs_strength * self._student.distance(
                student.outputs, teacher.outputs, batch, self.temperature
            )
        return total

    def end_task(self, experience: Experience, data: Data) -> None:
        """The teacher has done its work: the next one is the model as it is now."""
        super().end_task(experience, data)
        self._teacher = None

    def memory_bytes(self) -> int:
        """The teacher; between tasks, that which the next task begins with."""
        if self._teacher is not None:
            return self._teacher.bytes
        return teacher_bytes(self._student) if self.tasks_learnt and self.acts else 0

    @property
    def _student(self) -> Distillable:
        return cast(Distillable, self.model)

    def _weight(self, modality: str) -> float:
        return self.strengths.get(modality, self.strength)

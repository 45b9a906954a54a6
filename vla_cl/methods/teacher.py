"""The model as it was when a task began: what distillation compares with."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor

from vla_cl.interfaces import Distillable
from vla_cl.types import Batch, Draw, ForwardPass


class Teacher:
    """A frozen copy of a model.

    At a task border a teacher equals the model itself, so it is made when a task begins and never stored. Parameters of
    the student that nobody trains are shared with it, not copied. Its buffers stand still: what a forward pass in
    training mode does to them (running statistics, codebooks) is undone, so that it answers as it was copied.

    Args:
        student: What is copied, with its present weights.
    """

    def __init__(self, student: Distillable) -> None:
        self._student = student
        shared = {id(parameter): parameter for parameter in student.module.parameters() if not parameter.requires_grad}
        self._model: Distillable = copy.deepcopy(student, {**shared})
        for parameter in self._model.module.parameters():
            parameter.requires_grad_(False)
        self._answers_in: bool | None = None  # the student's mode when it was last asked
        self._bytes = teacher_bytes(student)

    @property
    def bytes(self) -> int:
        """Of the copied parameters and buffers."""
        return self._bytes

    def forward_pass(self, batch: Batch, draw: Draw) -> ForwardPass:
        """What the copy says, without gradient; under the same draw of the same augmented inputs and the same noise.

        It answers as at test time, without dropout and by its running statistics, as the outputs of the old network are
        recorded in Li & Hoiem 2016 (`vla_cl.interfaces.Distillable.answer_as_teacher`). Where a model draws noise after
        a layer with dropout, that noise is not the student's.
        """
        training = self._student.module.training
        if self._answers_in != training:
            self._model.answer_as_teacher(training)
            self._answers_in = training
        module = self._model.module
        before = {name: buffer.clone() for name, buffer in module.named_buffers()} if training else {}
        with torch.no_grad():
            answer = self._model.forward_pass(batch, draw)
            for name, buffer in module.named_buffers():
                if name in before:
                    buffer.copy_(before[name])
        return answer

    def outputs(self, batch: Batch, draw: Draw) -> Tensor:
        """What distillation compares, shape (B, ...)."""
        return self.forward_pass(batch, draw).outputs


def teacher_bytes(student: Distillable) -> int:
    """Bytes of the teacher that a task would begin with: trainable parameters and buffers."""
    module = student.module
    trainable = (parameter for parameter in module.parameters() if parameter.requires_grad)
    return sum(tensor.numel() * tensor.element_size() for tensor in chain(trainable, module.buffers()))

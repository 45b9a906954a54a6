import numpy as np
import torch
from regression_model import RegressionModel
from tiny_model import TinyData
from torch import nn

from vla_cl.methods.teacher import Teacher
from vla_cl.types import Draw


class Follower(nn.Module):
    """Follows what it sees in training, and answers by it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean.data.lerp_(x.detach().mean(0), 0.5)
        return x - self.mean


class Following(RegressionModel):
    def __init__(self):
        super().__init__()
        self._module = nn.Sequential(nn.Linear(3, 4), Follower(), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_teacher_answers_as_it_was_copied_however_often_it_was_asked():
    student = Following()
    student.module.train()
    teacher = Teacher(student)
    batches = [TinyData(seed=seed).batch(np.arange(20)) for seed in range(3)]
    first = teacher.outputs(batches[0], Draw(0))
    before = {name: buffer.clone() for name, buffer in teacher._model.module.named_buffers()}
    for batch in batches:
        teacher.outputs(batch, Draw(0))
    assert torch.equal(teacher.outputs(batches[0], Draw(0)), first)
    assert all(torch.equal(before[name], buffer) for name, buffer in teacher._model.module.named_buffers())
    student.module.eval()
    answer = teacher.outputs(batches[1], Draw(0))
    student.module.train()
    teacher.outputs(batches[2], Draw(0))
    student.module.eval()
    assert torch.equal(teacher.outputs(batches[1], Draw(0)), answer)


def test_a_student_in_training_still_follows():
    student = Following()
    student.module.train()
    Teacher(student).outputs(TinyData().batch(np.arange(20)), Draw(0))
    student.forward_pass(TinyData().batch(np.arange(20)), Draw(0))
    assert student.module[1].mean.abs().sum() > 0

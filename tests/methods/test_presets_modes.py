"""In which mode of the model each quantity is taken: Fishers, importances, what a teacher says."""

import numpy as np
import pytest
import torch
from many_tensors import assert_same, gradients
from regression_model import RegressionModel
from tiny_model import TinyData, experience
from torch import nn

from vla_cl.methods.ewc import ElasticWeightConsolidation
from vla_cl.methods.lwf import LearningWithoutForgetting
from vla_cl.methods.mas import MemoryAwareSynapses
from vla_cl.methods.teacher import Teacher
from vla_cl.models.policy_config import policy_config
from vla_cl.models.vla import VlaModel
from vla_cl.types import Ability, ConfigurationError, Draw, ForwardPass, InterfaceSpec

DRAW = Draw(7)
KEPT = 0.75


class Moody(RegressionModel):
    """Every part that has a mode: batch normalisation, dropout, and inputs that are shifted in training."""

    def __init__(self):
        torch.manual_seed(0)
        self._module = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(1 - KEPT), nn.Linear(6, 2))
        self._module[1].running_mean += 0.3
        self._module[1].running_var *= 1.7

    def forward_pass(self, batch, draw):
        generator = torch.Generator().manual_seed(draw.seed)
        shift = 0.5 * torch.randn(len(batch["x"]), 1, generator=generator) if self._module.training else 0.0
        with torch.random.fork_rng():
            torch.manual_seed(draw.seed)
            outputs = self._module(batch["x"] + shift)
        return ForwardPass((outputs - batch["y"]).square().mean(1), outputs)


class Shifting(Moody):
    """Says how it answers as a teacher: shifted as the student is, everything else as at test time."""

    def answer_as_teacher(self, student_is_training):
        self._module.eval()
        self._module.training = student_is_training


def learning(model):
    model.module.train()
    return model


def buffers(model):
    return {name: tensor.clone() for name, tensor in model.module.named_buffers()}


def by_hand(model, batch, shift=0.0):
    """What the weights say by running statistics and without dropout."""
    first, norm, _, last = model.module
    hidden = (first(batch["x"] + shift) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return last(hidden * norm.weight + norm.bias)


def test_a_teacher_uses_running_statistics_and_no_dropout_and_keeps_its_statistics():
    model = learning(Moody())
    teacher, batch = Teacher(model), TinyData(8).batch(np.arange(8))
    before = buffers(teacher._model)
    torch.testing.assert_close(teacher.outputs(batch, DRAW), by_hand(model, batch).detach())
    assert_same(buffers(teacher._model), before, 0.0)
    one = TinyData(8).batch(np.arange(1))
    torch.testing.assert_close(teacher.outputs(one, DRAW), teacher.outputs(batch, DRAW)[:1])  # no batch statistics


def test_a_model_that_augments_by_mode_lets_the_teacher_see_the_students_inputs():
    model = learning(Shifting())
    teacher, batch = Teacher(model), TinyData(8).batch(np.arange(8))
    shift = 0.5 * torch.randn(8, 1, generator=torch.Generator().manual_seed(DRAW.seed))
    torch.testing.assert_close(teacher.outputs(batch, DRAW), by_hand(model, batch, shift).detach())
    model.module.eval()
    torch.testing.assert_close(teacher.outputs(batch, DRAW), by_hand(model, batch).detach())
    model.module.train()
    torch.testing.assert_close(teacher.outputs(batch, DRAW), by_hand(model, batch, shift).detach())


def test_lwf_adds_the_distance_from_that_teacher():
    model = learning(Shifting())
    method, batch = LearningWithoutForgetting(strength=2.0), TinyData(8).batch(np.arange(8))
    method.attach(model, 0)
    method.end_task(experience(0), TinyData())
    method.begin_task(experience(1))
    shift = 0.5 * torch.randn(8, 1, generator=torch.Generator().manual_seed(DRAW.seed))
    said = by_hand(model, batch, shift).detach()
    with torch.no_grad():
        model.module[3].weight += 0.1
    student = model.forward_pass(batch, DRAW)
    expected = student.losses + 2.0 * (student.outputs - said).square().mean(1)
    torch.testing.assert_close(method.loss(batch, DRAW), expected)


def nano_vla():
    fields = {"image_size": 32, "chunk_size": 2, "n_action_steps": 2, "shift_pixels": 4}
    config = policy_config("nano_vla", fields, InterfaceSpec({"observation.image": (32, 32)}, 3, 2), "cpu")
    numbers = {"mean": np.zeros(3), "std": np.ones(3), "min": -np.ones(3), "max": np.ones(3)}
    statistics = {
        "observation.state": numbers,
        "action": {name: value[:2] for name, value in numbers.items()},
        "observation.image": {"mean": np.zeros((3, 1, 1)), "std": np.ones((3, 1, 1))},
    }
    return VlaModel.new(config, statistics, 0)


def pictures(count, chunk):
    generator = torch.Generator().manual_seed(1)
    return {
        "observation.image": torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "observation.state": torch.randn(count, 3, generator=generator),
        "action": torch.randn(count, chunk, 2, generator=generator),
        "action_is_pad": torch.zeros(count, chunk, dtype=torch.bool),
        "task": ["push"] * count,
        "index": torch.arange(count),
    }


def test_nano_vlas_teacher_sees_the_pictures_that_the_student_sees():
    model, batch = nano_vla(), pictures(4, 2)
    said = {}
    for training in (True, False):
        model.module.train(training)
        said[training] = model.outputs(batch, DRAW).detach()
    teacher = Teacher(model)
    assert not torch.equal(said[True], said[False])  # pictures are shifted in training
    for training in (True, False, True):
        model.module.train(training)
        assert torch.equal(teacher.outputs(batch, DRAW), said[training])


@pytest.mark.parametrize("reduction", ["per_sample", "batch"])
@pytest.mark.parametrize("measured_in", ["evaluation", "training"])
def test_a_fisher_is_measured_in_the_mode_that_it_says(reduction, measured_in):
    """Running statistics are used and stand still in both; dropout and shifts are there in training only."""
    model, seen = learning(Moody()), []
    model.module[2].register_forward_hook(
        lambda part, given, out: seen.append((part.training, torch.equal(*given, out)))
    )
    method = ElasticWeightConsolidation(fisher=reduction, measured_in=measured_in, batch_size=20)
    method.attach(model, 3)
    before, modes = buffers(model), [part.training for part in model.module.modules()]
    method.end_task(experience(0), TinyData(20))
    training = measured_in == "training"
    assert set(seen) == {(training, not training)}
    assert_same(buffers(model), before, 0.0)
    assert [part.training for part in model.module.modules()] == modes
    if not training and reduction == "batch":
        batch = TinyData(20).batch(np.arange(20))
        loss = (by_hand(model, batch) - batch["y"]).square().mean()
        expected = {name: gradient**2 for name, gradient in gradients(loss, model).items()}
        assert_same(method.penalty.importance, expected, 1e-5)


def test_importances_of_mas_are_measured_in_evaluation_mode():
    model = learning(Moody())
    method = MemoryAwareSynapses()
    method.attach(model, 3)
    method.end_task(experience(0), TinyData(6))
    rows = [TinyData(6).batch(np.array([row])) for row in range(6)]
    found = [gradients(by_hand(model, row).norm(), model) for row in rows]
    assert_same(method.penalty.importance, {n: sum(g[n].abs() for g in found) / 6 for n in found[0]}, 1e-5)


def act():
    fields = {"dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1, "n_vae_encoder_layers": 1,
              "chunk_size": 4, "n_action_steps": 4, "pretrained_backbone_weights": None, "latent_dim": 4}  # fmt: skip
    config = policy_config("act", fields, InterfaceSpec({"observation.image": (32, 32)}, 3, 2), "cpu")
    numbers = {"mean": np.zeros(3), "std": np.ones(3)}
    statistics = {
        "observation.state": numbers,
        "action": {name: value[:2] for name, value in numbers.items()},
        "observation.image": {"mean": np.zeros((3, 1, 1)), "std": np.ones((3, 1, 1))},
    }
    return VlaModel.new(config, statistics, 0)


class Pictures(TinyData):
    def batch(self, rows):
        return {
            key: [value[row] for row in rows] if key == "task" else value[torch.as_tensor(rows)]
            for key, value in pictures(len(self), 4).items()
        }


@pytest.mark.parametrize(("measured_in", "important"), [("evaluation", False), ("training", True)])
def test_acts_encoder_of_actions_matters_to_its_training_loss_alone(measured_in, important):
    model = act()
    method = ElasticWeightConsolidation(fisher="batch", measured_in=measured_in, batch_size=3)
    method.attach(model, 3)
    method.end_task(experience(0), Pictures(6))
    encoder = [
        t for name, t in method.penalty.importance.items() if ".vae_encoder." in name and name.endswith("weight")
    ]
    decoder = [t for name, t in method.penalty.importance.items() if "action_head" in name]
    assert len(encoder) > 4
    assert all(bool(tensor.any()) is important for tensor in encoder)
    assert all(tensor.any() for tensor in decoder)


def test_a_policys_layers_with_statistics_or_dropout_answer_as_at_test_time():
    model = nano_vla()
    model.policy.extra = nn.ModuleList(
        [nn.BatchNorm2d(3), nn.InstanceNorm1d(3, track_running_stats=True), nn.Dropout(0.1), nn.LSTM(3, 3),
         nn.MultiheadAttention(4, 2, dropout=0.1), nn.Linear(3, 3)]
    )  # fmt: skip
    model.module.eval()
    model.answer_as_teacher(True)
    assert [part.training for part in model.policy.extra] == [False, False, False, False, False, True]
    assert model.module.training  # pictures are augmented
    model.answer_as_teacher(False)
    assert not any(part.training for part in model.module.modules())


def test_measured_in_and_drawn_targets_are_checked():
    with pytest.raises(ConfigurationError, match=r"method.measured_in must be one of evaluation, training; got 'eval'"):
        ElasticWeightConsolidation(measured_in="eval")
    with pytest.raises(ConfigurationError, match=r"method.estimator must be empirical with method.fisher=steps"):
        ElasticWeightConsolidation(fisher="steps", estimator="model")
    assert Ability.OUTPUTS in Moody().abilities

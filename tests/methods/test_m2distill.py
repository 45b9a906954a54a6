import numpy as np
import pytest
import torch
from tiny_distillable import TinyDistillable, assert_continues_after_resume, assert_sequential, run
from tiny_model import TinyData, TinyModel, experience

from vla_cl.methods.m2distill import M2Distill
from vla_cl.training.learning import TrainingSettings
from vla_cl.types import ConfigurationError, Draw


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0.0, "outputs_strength": 0.0},
        {"strength": 0.0, "strengths": {"vision": 0.0, "state": 0.0}, "outputs_strength": 0.0},
    ],
)
def test_all_strengths_zero_is_sequential(options):
    assert_sequential(TinyDistillable, M2Distill(**options))


def test_the_first_task_is_learnt_as_without_a_teacher():
    assert_sequential(TinyDistillable, M2Distill(), tasks=[0])


def test_loss_and_gradient_are_those_of_the_formula():
    model = TinyDistillable()
    method = M2Distill(strength=2.0, strengths={"state": 0.5}, outputs_strength=3.0)
    run(model, method, [0])
    method.begin_task(experience(1))
    model.module.train()
    batch, draw = TinyData(6, seed=1).batch(np.arange(6)), Draw(42)
    with torch.no_grad():
        model.module.eval()
        old = model.forward_pass(batch, draw)  # nothing has moved yet, so this is what the teacher says
        model.module.train()
        for number, parameter in enumerate(model.module.parameters()):
            if parameter.requires_grad:
                parameter += 0.1 * (number + 1)
    losses = method.loss(batch, draw)
    losses.mean().backward()
    found = {name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None}

    model.module.zero_grad()
    new = model.forward_pass(batch, draw)
    expected = []
    for sample in range(6):
        value = new.losses[sample]
        for weight, size, ours, theirs in (
            (2.0, 4, new.modalities["vision"], old.modalities["vision"]),
            (0.5, 3, new.modalities["state"], old.modalities["state"]),
            (3.0, 2, new.outputs, old.outputs),
        ):
            for place in range(size):
                value = value + weight * (ours[sample, place] - theirs[sample, place]) ** 2 / size
        expected.append(value)
    torch.testing.assert_close(losses, torch.stack(expected))
    torch.stack(expected).mean().backward()
    assert len(found) == 6
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-7)


def test_only_the_named_modality_is_held():
    batch = TinyData(50, seed=1).batch(np.arange(50))
    drift = {}
    for held in ("vision", "state"):
        model = TinyDistillable(fixed=True)
        method = M2Distill(strength=0.0, strengths={held: 50.0}, outputs_strength=0.0)
        run(model, method, [0])
        before = model.forward_pass(batch, Draw(0)).modalities
        run(model, method, [1], TrainingSettings(steps=60, batch_size=6, learning_rate=1e-2), attach=False)
        after = model.forward_pass(batch, Draw(0)).modalities
        drift[held] = {name: (after[name] - before[name]).square().mean().item() for name in before}
    assert drift["vision"]["vision"] < 0.2 * drift["state"]["vision"]
    assert drift["state"]["state"] < 0.2 * drift["vision"]["state"]


def test_memory_is_the_teacher_from_the_second_task_on():
    model, method = TinyDistillable(), M2Distill()
    method.attach(model, 0)
    trainable = 4 * sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    seen = []
    for index in range(2):
        method.begin_task(experience(index))
        seen.append(method.memory_bytes())
        method.end_task(experience(index), TinyData())
        seen.append(method.memory_bytes())
    assert seen == [0, trainable + 20, trainable + 20, trainable + 20]


def test_it_continues_after_a_resume():
    assert_continues_after_resume(TinyDistillable, M2Distill)


def test_an_unknown_modality_is_refused_before_anything_is_learnt():
    model, method = TinyDistillable(), M2Distill(strengths={"sound": 1.0})
    with pytest.raises(ConfigurationError, match="names the modality 'sound'; TinyDistillable has vision, state"):
        method.attach(model, 0)
    assert model.passes == 0


def test_a_long_name_of_a_modality_is_shown_in_short():
    with pytest.raises(ConfigurationError, match="names the modality 'sss") as caught:
        M2Distill(strengths={"s" * 5000: 1.0}).attach(TinyDistillable(), 0)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_strengths_that_leave_nothing_to_compare_are_refused(strength):
    """Only the model tells that no modality is left for ``strength``."""
    method = M2Distill(strength=strength, strengths={"vision": 0.0, "state": 0.0}, outputs_strength=0.0)
    with pytest.raises(ConfigurationError, match=r"would compare nothing: .* vision, state .* 0"):
        method.attach(TinyDistillable(), 0)


def test_a_strength_of_no_modality_is_refused():
    method = M2Distill(strength=2.0, strengths={"vision": 0.5, "state": 1.0})
    with pytest.raises(ConfigurationError, match=r"method.strength=2.0 has no effect with method.strengths="):
        method.attach(TinyDistillable(), 0)
    for strength in (0.0, 1.0):
        M2Distill(strength=strength, strengths={"vision": 0.5, "state": 1.0}).attach(TinyDistillable(), 0)


def test_a_model_without_modalities_is_refused():
    with pytest.raises(ConfigurationError, match="needs a model with modalities and outputs"):
        M2Distill().attach(TinyModel(), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "method.strength must be between 0 and"),
        ({"strengths": {"vision": -2.0}}, "method.strengths.vision must be between 0 and"),
        ({"strengths": ["vision"]}, r"method.strengths must give names numbers, .*; got \['vision'\]"),
        ({"outputs_strength": -1.0}, "method.outputs_strength must be between 0 and"),
        ({"temperature": 0.0}, "method.temperature must be above 0"),
        ({"temperature": float("inf")}, "method.temperature must be above 0 and at most 1e.06; got inf"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        M2Distill(**options)

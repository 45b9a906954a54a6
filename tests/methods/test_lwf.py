import numpy as np
import pytest
import torch
from tiny_distillable import (
    TinyDistillable,
    assert_continues_after_resume,
    assert_sequential,
    run,
    weights,
)
from tiny_model import TinyData, TinyModel, experience

from vla_cl.interfaces import Method
from vla_cl.methods.lwf import LearningWithoutForgetting, OutputCache
from vla_cl.methods.teacher import Teacher, teacher_bytes
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError, Draw

TRAINABLE = (4 * 2 + 4 + 3 + 3 + 2 * 7 + 2) * 4  # bytes; the frozen matrix is not copied
BUFFER = 5 * 4


def prepared(fixed=False, tasks=1, **options):
    """Model and method after ``tasks`` tasks, at the beginning of the next."""
    model, method = TinyDistillable(fixed=fixed), LearningWithoutForgetting(**options)
    run(model, method, range(tasks))
    method.begin_task(experience(tasks))
    model.module.train()
    return model, method


def moved(model):
    """Change the student, as training would."""
    with torch.no_grad():
        for number, parameter in enumerate(model.module.parameters()):
            if parameter.requires_grad:
                parameter += 0.1 * (number + 1)


def test_strength_zero_is_sequential():
    assert_sequential(TinyDistillable, LearningWithoutForgetting(strength=0.0))


def test_the_first_task_is_learnt_as_without_a_teacher():
    assert_sequential(TinyDistillable, LearningWithoutForgetting(strength=7.0), tasks=[0])


def test_loss_and_gradient_are_those_of_the_formula():
    model, method = prepared(strength=3.0)
    old = weights(model)
    moved(model)
    batch, draw = TinyData(6, seed=1).batch(np.arange(6)), Draw(42)
    method.loss(batch, draw).mean().backward()
    found = {name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None}

    other = TinyDistillable()
    other.module.eval()  # without dropout
    other.module.load_state_dict(old)
    with torch.no_grad():
        teacher = other.forward_pass(batch, draw).outputs  # same draw: same noise
    model.module.zero_grad()
    student = model.forward_pass(batch, draw)
    value = 0.0
    for sample in range(6):
        value = (
            value
            + student.losses[sample]
            + 3.0 * sum((student.outputs[sample, i] - teacher[sample, i]) ** 2 / 2 for i in range(2))
        )
    (value / 6).backward()
    assert len(found) == 6
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-7)


def test_before_anything_has_moved_only_the_students_dropout_is_a_distance():
    model, method = prepared()
    batch, draw = TinyData(6, seed=1).batch(np.arange(6)), Draw(3)
    model.module.eval()
    said = model.outputs(batch, draw)
    assert torch.equal(method.loss(batch, draw), model.loss(batch, draw))
    model.module.train()
    expected = model.loss(batch, draw) + (model.outputs(batch, draw) - said).square().mean(1)
    torch.testing.assert_close(method.loss(batch, draw), expected)
    model.module.dropout.p = 0.0
    assert torch.equal(method.loss(batch, draw), model.loss(batch, draw))


def test_the_teacher_is_frozen_and_shares_only_what_nobody_trains():
    model = TinyDistillable()
    teacher = Teacher(model)
    batch = TinyData(4).batch(np.arange(4))
    before = teacher.outputs(batch, Draw(1))
    moved(model)
    assert torch.equal(teacher.outputs(batch, Draw(1)), before)
    assert not before.requires_grad
    assert [p.requires_grad for p in model.module.parameters()] == [False] + [True] * 6
    assert teacher.bytes == teacher_bytes(model) == TRAINABLE + BUFFER


def test_memory_is_the_teacher_from_the_second_task_on():
    model, method = TinyDistillable(), LearningWithoutForgetting()
    method.attach(model, 0)
    method.begin_task(experience(0))
    assert method.memory_bytes() == 0
    method.end_task(experience(0), TinyData())
    assert method.memory_bytes() == TRAINABLE + BUFFER
    method.begin_task(experience(1))
    assert method.memory_bytes() == TRAINABLE + BUFFER


def test_the_cached_loss_curve_is_the_uncached_one():
    settings = TrainingSettings(steps=34, batch_size=6, learning_rate=1e-2)  # 20 epochs of ten rows
    curves, passes = {}, {}
    for cache in ("auto", "never"):
        model, method = TinyDistillable(fixed=True), LearningWithoutForgetting(strength=2.0, cache=cache)
        reports = run(model, method, [0, 1], settings)
        curves[cache] = np.array([report.loss for report in reports])
        passes[cache] = model.passes
    np.testing.assert_allclose(curves["auto"], curves["never"], rtol=1e-5)
    sequential = run(TinyDistillable(fixed=True), Method(), [0, 1], settings)
    assert abs(curves["auto"][-5:] - [report.loss for report in sequential][-5:]).min() > 1e-3
    assert passes["auto"] == passes["never"] == 68  # the student's own


def test_after_an_epoch_the_teacher_is_gone_and_the_cache_is_there():
    model, method = TinyDistillable(fixed=True), LearningWithoutForgetting(cache="always")
    run(model, method, [0])
    settings = TrainingSettings(steps=10, batch_size=5)
    asked = []
    original = Teacher.outputs

    def counted(self, batch, draw):
        asked.extend(batch["index"].tolist())
        return original(self, batch, draw)

    steps = Learning(model, method, experience(1), TinyData(10, seed=1), settings, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "outputs", counted)
        for report in steps:
            if report.step == 1:
                assert method.memory_bytes() == TRAINABLE + BUFFER + 5 * 2 * 4
            if report.step >= 4:  # two epochs
                assert method.memory_bytes() == 10 * 2 * 4
    assert sorted(asked) == list(range(10))  # each row once
    assert method.memory_bytes() == TRAINABLE + BUFFER  # the next task's teacher


def test_rows_are_found_by_their_number_not_by_the_step():
    model, method = prepared(fixed=True)
    data = TinyData(6, seed=1)
    expected = model.outputs(data.batch(np.arange(6)), Draw(0)).detach()
    method.loss(data.batch(np.array([3, 1])), Draw(0))
    moved(model)  # the teacher is asked for the other rows below
    for rows in ([0, 3, 5], [5, 4, 3, 2, 1, 0], [1, 3], [2, 2]):
        batch = data.batch(np.array(rows))
        student = model.forward_pass(batch, Draw(0))
        distance = (student.outputs - expected[rows]).square().mean(1)
        torch.testing.assert_close(method.loss(batch, Draw(0)), student.losses + distance)


def test_half_precision_halves_the_cache_and_is_off_by_its_rounding():
    kept = {name: OutputCache(dtype, 10**6) for name, dtype in (("full", torch.float32), ("half", torch.float16))}
    values = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for cache in kept.values():
        cache.keep(list(range(8)), values)
    assert (kept["full"].bytes, kept["half"].bytes) == (96, 48)
    assert torch.equal(kept["full"].outputs([3, 0]), values[[3, 0]])
    error = (kept["half"].outputs(list(range(8))).float() - values).abs()
    assert 0 < (error / values.abs()).max() <= 5e-4


def test_a_cache_that_is_full_leaves_the_rest_to_the_teacher():
    settings = TrainingSettings(steps=20, batch_size=2, learning_rate=1e-2)
    losses = []
    for options in ({"cache_megabytes": 50 / 2**20}, {"cache": "never"}):  # six rows of eight bytes
        model, method = TinyDistillable(fixed=True), LearningWithoutForgetting(**options)
        run(model, method, [0], settings)
        for report in Learning(model, method, experience(1), TinyData(10, seed=1), settings, 5):
            losses.append(report.loss)
            if report.step == 15 and "cache" not in options:
                assert method.memory_bytes() == TRAINABLE + BUFFER + 48
    np.testing.assert_allclose(losses[:20], losses[20:], rtol=1e-5)


def test_outputs_that_change_their_shape_are_never_mixed_up():
    cache = OutputCache(torch.float32, 10**6)
    cache.keep([0, 1], torch.ones(2, 3))
    cache.keep([1, 2], torch.zeros(2, 4))
    assert [cache.has(row, torch.Size([3])) for row in range(3)] == [True, True, False]
    assert [cache.has(row, torch.Size([4])) for row in range(3)] == [False, False, True]
    cache.keep([3], torch.ones(1, 3))
    assert not cache.enough_without_a_miss(100)


def test_models_whose_outputs_are_not_fixed_are_not_cached():
    _, method = prepared(fixed=False)
    method.loss(TinyData(6, seed=1).batch(np.arange(6)), Draw(0))
    assert method.memory_bytes() == TRAINABLE + BUFFER
    with pytest.raises(ConfigurationError, match="cache=always needs a model with fixed_outputs"):
        LearningWithoutForgetting(cache="always").attach(TinyDistillable(fixed=False), 0)


def test_it_stays_nearer_to_the_old_answers_than_sequential():
    drift = {}
    batch = TinyData(50, seed=1).batch(np.arange(50))
    for strength in (0.0, 5.0):
        model, method = TinyDistillable(fixed=True), LearningWithoutForgetting(strength=strength)
        run(model, method, [0])
        before = model.outputs(batch, Draw(0)).detach()
        run(model, method, [1], TrainingSettings(steps=60, batch_size=6, learning_rate=1e-2), attach=False)
        drift[strength] = (model.outputs(batch, Draw(0)) - before).square().mean().item()
    assert drift[5.0] < 0.5 * drift[0.0]


def test_it_continues_after_a_resume():
    for fixed in (True, False):
        assert_continues_after_resume(
            lambda seed=0, fixed=fixed: TinyDistillable(seed, fixed), LearningWithoutForgetting
        )


def test_a_checkpoint_of_another_method_is_refused():
    method = LearningWithoutForgetting()
    method.attach(TinyDistillable(), 0)
    with pytest.raises(ValueError, match=r"only the number of tasks learnt, but the checkpoint holds \['anchor'\]"):
        method.load_state_dict({"anchor": torch.zeros(1)}, {}, iter([]))


def test_a_model_without_outputs_is_refused():
    with pytest.raises(ConfigurationError, match="needs a model with outputs"):
        LearningWithoutForgetting().attach(TinyModel(), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, r"method.strength must be between 0 and"),
        ({"temperature": 0.0}, r"method.temperature must be above 0"),
        ({"temperature": float("inf")}, "method.temperature must be above 0 and at most 1e.06; got inf"),
        ({"cache": "perhaps"}, r"method.cache must be one of auto, always, never"),
        ({"cache_precision": "int8"}, r"method.cache_precision must be one of float32, float16"),
        ({"cache_megabytes": -1.0}, r"method.cache_megabytes must be between 0 and"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        LearningWithoutForgetting(**options)


def test_a_teacher_of_a_robot_policy_sees_the_students_augmentation_and_noise():
    from vla_cl.models.vla import VlaModel, policy_config
    from vla_cl.types import InterfaceSpec

    spec = InterfaceSpec({"observation.image": (32, 32)}, 4, 4)
    small = {"vision_channels": [8, 16, 32], "hidden_size": 64, "image_size": 32, "shift_pixels": 2, "state_noise": 0.1}
    config = policy_config("nano_vla", small, spec, "cpu")
    unit = {"mean": np.zeros(4), "std": np.ones(4), "min": -np.ones(4), "max": np.ones(4)}
    model = VlaModel.new(config, {"observation.state": unit, "action": unit}, init_seed=0)
    generator = np.random.default_rng(0)
    chunk = config.chunk_size
    batch = {
        "index": torch.arange(3),
        "task": ["push", "pull", "push"],
        "observation.image": torch.from_numpy(generator.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)),
        "observation.state": torch.from_numpy(generator.standard_normal((3, 4)).astype(np.float32)),
        "action": torch.from_numpy(generator.uniform(-1, 1, (3, chunk, 4)).astype(np.float32)),
        "action_is_pad": torch.zeros(3, chunk, dtype=torch.bool),
    }
    method = LearningWithoutForgetting()
    method.attach(model, 0)
    method.load_state_dict({}, {"tasks_learnt": 1}, iter([]))
    method.begin_task(experience(1))
    model.module.train()
    plain = model.loss(batch, Draw(1)).detach()
    torch.testing.assert_close(method.loss(batch, Draw(1)).detach(), plain, rtol=0, atol=0)
    assert method.memory_bytes() == 4 * sum(p.numel() for p in model.module.parameters()) + sum(
        b.numel() * b.element_size() for b in model.module.buffers()
    )
    with torch.no_grad():
        next(reversed(list(model.module.parameters()))).add_(0.5)
    assert (method.loss(batch, Draw(1)) > plain + 0.01).all()

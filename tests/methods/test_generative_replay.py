import copy

import numpy as np
import pytest
import torch
from keyed_model import KeyedModel
from tiny_model import TinyData, TinyModel, experience

from vla_cl.methods.generative_replay import GENERATED, SEED, GenerativeDistillation, GenerativeReplay
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError, Draw

SETTINGS = TrainingSettings(steps=5, batch_size=6)


class Named(TinyData):
    """Samples of two tasks, three quarters of them of the first."""

    def __init__(self, names, rows=40, seed=0):
        super().__init__(rows, seed)
        self.names = names

    def batch(self, rows):
        return {**super().batch(rows), "task": [self.names[int(row % 4 == 0)] for row in np.asarray(rows)]}


def attached(kind=GenerativeReplay, model=None, **options):
    method = kind(**options)
    method.attach(model or KeyedModel(), train_seed=3)
    return method


def past(method, tasks=(("a", "bb"), ("ccc", "dddd"))):
    for index, names in enumerate(tasks):
        method.end_task(experience(index), Named(names, rows=40 * (index + 1)))
    method.begin_task(experience(len(tasks)))
    return method


def current(size=8):
    return TinyData(seed=9).batch(np.arange(size))


def bits(model):
    return [parameter.detach().clone() for parameter in model.module.parameters()]


@pytest.mark.parametrize("kind", [GenerativeReplay, GenerativeDistillation])
def test_the_first_task_and_a_share_of_zero_generate_nothing(kind):
    batch = current()
    first = attached(kind)
    first.begin_task(experience(0))
    assert first.compose(batch, 0) is batch
    assert first.memory_bytes() == 0
    nothing = past(attached(kind, share=0.0))
    assert nothing.compose(batch, 0) is batch
    assert nothing.memory_bytes() == 0


def test_as_many_samples_as_asked_for_experiences_alike_tasks_by_frequency():
    asked = []

    class Asked(KeyedModel):
        def generate(self, tasks, seed):
            asked.append((list(tasks), seed))
            return super().generate(tasks, seed)

    method = past(attached(model=Asked(), samples_share=10.0, chunk=256))
    tasks = [task for chunk, _ in asked for task in chunk]
    assert len(tasks) == 600  # ten times the mean of 40 and 80
    assert [len(chunk) for chunk, _ in asked] == [256, 256, 88]
    assert len({seed for _, seed in asked}) == 3
    counts = {name: tasks.count(name) for name in ("a", "bb", "ccc", "dddd")}
    assert counts["a"] + counts["bb"] == counts["ccc"] + counts["dddd"] == 300
    for rare in ("bb", "dddd"):
        assert abs(counts[rare] - 75) < 4 * np.sqrt(300 * 0.25 * 0.75)
    assert method.memory_bytes() == 600 * (3 + 2) * 4
    asked.clear()
    past(attached(model=Asked(), samples=7))
    assert [len(chunk) for chunk, _ in asked] == [7]


def test_samples_come_from_the_model_as_it_is_and_go_with_the_task():
    method = attached(samples=20)
    method.end_task(experience(0), TinyData())
    with torch.no_grad():
        method.model.module[0].weight.fill_(100.0)
    method.begin_task(experience(1))
    mixed = method.compose(current(), 4)
    assert len(mixed["task"]) == 8
    assert torch.equal(mixed["x"][:4], current()["x"][:4])
    assert (mixed["x"][4:] > 90).all()
    assert torch.equal(method.compose(current(), 4)["x"], mixed["x"])
    assert not torch.equal(method.compose(current(), 5)["x"], mixed["x"])
    method.end_task(experience(1), TinyData())
    assert method.compose(current(), 6)["x"].shape == (8, 3)
    assert (method.compose(current(), 6)["x"] < 90).all()
    added = attached(mixing="added", share=0.25)
    past(added)
    assert len(added.compose(current(), 0)["task"]) == 10


@pytest.mark.parametrize("kind", [GenerativeReplay, GenerativeDistillation])
def test_a_resumed_run_continues_bit_for_bit(kind):
    data = [Named(("a", "bb"), seed=seed) for seed in range(3)]
    model = KeyedModel()
    method = attached(kind, model)
    for index in range(2):
        list(Learning(model, method, experience(index), data[index], SETTINGS, 3, index * 5))
    extra, again, between = copy.deepcopy(method.extra_state()), copy.deepcopy(model), method.memory_bytes()
    assert method.state_dict() == {}
    assert between > 0
    other = attached(kind, again)
    other.load_state_dict({}, extra, iter([]))
    assert other.memory_bytes() == between
    for one, edits in ((model, method), (again, other)):
        list(Learning(one, edits, experience(2), data[2], SETTINGS, 3, 10))
    for ours, theirs in zip(bits(model), bits(again), strict=True):
        assert torch.equal(ours, theirs)
    assert other.extra_state() == method.extra_state()
    with pytest.raises(ValueError, match="keeps bytes, past, tasks_learnt, but the checkpoint holds memory"):
        attached(kind).load_state_dict({}, {"memory": {}}, iter([]))


@pytest.mark.parametrize(("weights", "of_new", "of_generated"), [("tasks", 1 / 3, 2 / 3), ("equal", 1, 1)])
def test_distillation_compares_with_the_model_before_the_task_under_the_same_noise(weights, of_new, of_generated):
    method = past(attached(GenerativeDistillation, strength=3.0, weights=weights))
    teacher = copy.deepcopy(method.model)
    batch = method.compose(current(), 2)
    assert batch[GENERATED].tolist() == [False] * 4 + [True] * 4
    assert method.loss(batch, Draw(1))[4:].abs().max() < 1e-12
    with torch.no_grad():
        for parameter in method.model.module.parameters():
            parameter.add_(0.1)
    losses = method.loss(batch, Draw(1))
    for row in range(8):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        draw = Draw(0, batch[SEED][row : row + 1].numpy())
        ours, theirs = method.model.forward_pass(one, draw), teacher.forward_pass(one, draw)
        distance = (ours.outputs - theirs.outputs).square().mean()
        expected = of_generated * 3.0 * distance if row >= 4 else of_new * ours.losses[0]
        assert torch.allclose(losses[row], 2 * expected, rtol=1e-6)  # each term is the mean over half of the batch
    for rank in range(2):
        part = {key: value[rank::2] for key, value in batch.items()}
        assert torch.allclose(method.loss(part, Draw(5)), losses[rank::2], rtol=1e-9)
    assert not torch.equal(method.compose(current(), 3)[SEED], batch[SEED])
    samples = round(0.2 * 60)
    assert method.memory_bytes() == samples * 20 + sum(p.numel() * 8 for p in method.model.module.parameters())


def test_distillation_sends_no_gradient_through_the_generated_labels():
    method = past(attached(GenerativeDistillation, share=1.0))
    with torch.no_grad():
        method.model.module[3].bias.add_(1.0)
    batch = method.compose(current(), 2)
    changed = {**batch, "y": batch["y"] + 100}
    assert torch.equal(method.loss(batch, Draw(1)), method.loss(changed, Draw(1)))


@pytest.mark.parametrize("kind", [GenerativeReplay, GenerativeDistillation])
def test_a_model_that_generates_nothing_is_refused(kind):
    with pytest.raises(ConfigurationError, match="generation"):
        attached(kind, TinyModel())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (GenerativeReplay, {"samples_share": 0.0}, "samples_share must be above 0"),
        (GenerativeReplay, {"samples": 0}, "method.samples must be a whole number between 1"),
        (GenerativeReplay, {"chunk": 0}, "method.chunk must be a whole number between 1"),
        (GenerativeReplay, {"mixing": "coin_flip"}, "one of added, replaced"),
        (GenerativeDistillation, {"strength": -1.0}, "method.strength must be between 0 and"),
        (GenerativeDistillation, {"weights": "half"}, "method.weights must be one of tasks, equal; got 'half'"),
        (GenerativeDistillation, {"temperature": 0.0}, "method.temperature must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(kind, options, message):
    with pytest.raises(ConfigurationError, match=message):
        kind(**options)

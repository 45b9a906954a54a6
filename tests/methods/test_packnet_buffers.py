"""PackNet serves an old task to the bit as it was learnt, whatever a network keeps outside its parameters."""

import json

import numpy as np
import pytest
import torch
from regression_model import RegressionModel
from safetensors.torch import load, save
from tiny_distillable import assert_same, run, weights
from tiny_model import TinyData, experience
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from vla_cl.methods.packnet import PackNet
from vla_cl.training.learning import TrainingSettings
from vla_cl.types import ConfigurationError

SETTINGS = TrainingSettings(steps=12, batch_size=6, learning_rate=2e-2, weight_decay=0.1)
WIDTH = 8


class Norm(nn.Module):
    """Instance normalisation with running statistics, over pairs of features."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(WIDTH // 2, affine=True, track_running_stats=True)

    def forward(self, x):
        return self.norm(x.unflatten(1, (WIDTH // 2, 2))).flatten(1)


class Codebook(nn.Module):
    """The nearest code of each sample; in training the codes follow the samples, written past autograd."""

    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.randn(4, WIDTH))
        self.register_buffer("sizes", torch.ones(4))

    def forward(self, x):
        nearest = torch.cdist(x.detach(), self.codes).argmin(1)
        if self.training:
            chosen = nn.functional.one_hot(nearest, 4).float()
            self.sizes.data.mul_(0.9).add_(0.1 * chosen.sum(0))
            self.codes.data.lerp_(chosen.T @ x.detach() / (chosen.sum(0)[:, None] + 1e-3), 0.1)
        return x + self.codes[nearest]


class Average(nn.Module):
    """A running average of a layer's weights, by which it answers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mean", self.layer.weight.detach().clone())

    def forward(self, x):
        if self.training:
            self.mean.lerp_(self.layer.weight.detach(), 0.2)
            return self.layer(x)
        return nn.functional.linear(x, self.mean, self.layer.bias)


class Counter(nn.Module):
    """Counts its calls, in evaluation too, and answers by them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.calls += 1
        return x * (1 + 1 / self.calls)


class Late(nn.Module):
    """A running mean that begins with the first batch and is a new tensor after each."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)

    def forward(self, x):
        if self.training:
            now = x.detach().mean(0)
            self.register_buffer("mean", now if self.mean is None else self.mean * 0.9 + 0.1 * now)
        return x - self.mean


class Unsaved(nn.Module):
    """A running mean that is not part of the saved weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.2)
        return x - self.mean


KINDS = {
    "batch statistics": lambda: nn.BatchNorm1d(WIDTH),
    "instance statistics": Norm,
    "codebook": Codebook,
    "singular vectors": lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "singular vectors, old": lambda: spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "average of weights": Average,
    "counter": Counter,
    "late": Late,
    "unsaved": Unsaved,
}


class Stateful(RegressionModel):
    def __init__(self, kind, seed=0):
        torch.manual_seed(seed)
        self._module = nn.Sequential(nn.Linear(3, WIDTH), KINDS[kind](), nn.Tanh(), nn.Linear(WIDTH, 2))


def served(model, method, task):
    """What the model answers when it is told the task."""
    method.select_task(experience(task).tasks[0])
    model.module.eval()
    with torch.no_grad():
        answer = model.module(TinyData(seed=task).batch(np.arange(20))["x"])
    method.select_task(None)
    return answer


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.module.named_buffers()}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_old_tasks_are_served_to_the_bit_as_they_were_learnt(kind):
    model, method = Stateful(kind), PackNet(prune_share=0.6)
    method.attach(model, 5)
    noted, states = [], []
    for task in range(4):
        run(model, method, [task], SETTINGS, attach=False)
        now, parameters = buffers(model), weights(model)
        noted.append(served(model, method, task))
        states.append(now)
        for old in range(task + 1):
            assert torch.equal(served(model, method, old), noted[old]), (task, old)
        assert_same(buffers(model), now)
        assert_same(weights(model), parameters)
    if kind != "batch statistics":  # which stand still after the first task
        changed = [name for name in states[3] if not torch.equal(states[0][name], states[3][name])]
        assert changed
        assert method.memory_bytes() > sum(owner.numel() for owner in method.owners.values())


def test_a_resumed_run_serves_and_learns_the_same_bits(kind):
    model, method = Stateful(kind), PackNet(prune_share=0.6)
    run(model, method, range(2), SETTINGS)
    wanted = [served(model, method, task) for task in range(2)]
    state, extra = load(save(method.state_dict())), json.loads(json.dumps(method.extra_state()))
    saved, kept = weights(model), method.memory_bytes()
    run(model, method, [2], SETTINGS, attach=False)

    again, other = Stateful(kind, seed=9), PackNet(prune_share=0.6)
    for name in saved.keys() - again.module.state_dict().keys():  # as whoever loads such a network must
        again.module[1].register_buffer(name.rpartition(".")[2], torch.empty_like(saved[name]))
    again.module.load_state_dict(saved)
    other.attach(again, 5)
    other.load_state_dict(state, extra, iter([]))
    assert other.memory_bytes() == kept
    for task in range(2):
        assert torch.equal(served(again, other, task), wanted[task])
    run(again, other, [2], SETTINGS, attach=False)
    assert_same(weights(again), weights(model))
    assert_same(buffers(again), buffers(model))
    assert_same(other.state_dict(), method.state_dict())
    for task in range(3):
        assert torch.equal(served(again, other, task), served(model, method, task))


def test_before_its_first_batch_a_buffer_was_not_there():
    model, method = Stateful("late"), PackNet(prune_share=0.6)
    run(model, method, [0], SETTINGS)
    assert method.extra_state()["absent"] == [[0, "1.mean"]]
    assert set(method.state_dict()) == {"owner.0.weight", "owner.3.weight", "buffer.1.1.mean"}


def test_only_what_changed_is_kept():
    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.randn(1000, 1000))
            self.register_buffer("seen", torch.zeros(2))

        def forward(self, x):
            if self.training:
                self.seen += 1
            return x

    model, method = Stateful("counter"), PackNet()
    model.module[1] = Still()
    run(model, method, range(2), SETTINGS)
    owners = 3 * WIDTH + 2 * WIDTH
    assert method.memory_bytes() == owners + 3 * 2 * 4  # before, after the first, after the second
    kept = {key: value.tolist() for key, value in method.state_dict().items() if "owner" not in key}
    assert kept == {"buffer.0.1.seen": [0, 0], "buffer.1.1.seen": [12, 12], "buffer.2.1.seen": [24, 24]}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"buffer.3.1.calls": torch.tensor(1)}, "holds buffers of task '3', but 2 tasks were learnt"),
        ({"buffer.x.1.calls": torch.tensor(1)}, "holds buffers of task 'x'"),
        ({"buffer.1.1.other": torch.tensor(1)}, "buffers without their beginnings: \\['1.other'\\]"),
    ],
)
def test_a_damaged_state_is_refused(state, message):
    model, method = Stateful("counter"), PackNet()
    run(model, method, range(2), SETTINGS)
    extra = method.extra_state()
    extra["buffers"] |= {name.removeprefix("buffer."): [] for name in state}
    with pytest.raises(ValueError, match=message):
        method.load_state_dict(method.state_dict() | state, extra, iter([]))


@pytest.mark.parametrize("normalised", [parametrizations.spectral_norm, spectral_norm])
def test_under_spectral_normalisation_the_weights_behind_are_pruned(normalised):
    model, method = Stateful("counter"), PackNet(prune_share=0.5, retrain_share=0.5)
    model.module[1] = normalised(nn.Linear(WIDTH, WIDTH))
    behind = next(name for name, _ in model.module.named_parameters() if "orig" in name)
    run(model, method, [0], SETTINGS)
    assert set(method.owners) == {"0.weight", behind, "3.weight"}
    owned = method.owners[behind] == 1
    assert int(owned.sum()) == WIDTH * WIDTH // 2
    assert torch.equal(model.module.get_parameter(behind) != 0, owned)
    served(model, method, 0)
    assert torch.equal(model.module[1].weight != 0, owned)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize(
    "computed",
    [
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", Doubled()) or layer,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_other_computed_weights_are_refused(computed):
    model = Stateful("counter")
    model.module[1] = computed(nn.Linear(WIDTH, WIDTH))
    with pytest.raises(ConfigurationError, match="cannot prune '1', whose weight is computed from other parameters"):
        PackNet().attach(model, 0)
    model.module[1].requires_grad_(False)
    PackNet().attach(model, 0)

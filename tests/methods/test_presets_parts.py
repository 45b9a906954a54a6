"""The presets that let only a part of the model learn, against what the code or paper that they name does."""

import math

import pytest
import torch
from many_tensors import SETTINGS, ManyTensors, assert_same, learnt, preset, weights
from regression_model import RegressionModel
from tiny_model import experience
from torch import nn
from torch.optim import AdamW

from vla_cl.interfaces import Method
from vla_cl.types import ForwardPass, Roles


def assert_same_tasks(method, ours, published, theirs, tasks, relative):
    """Each task, begun by both from the same weights, ends in the same."""
    published.attach(theirs, 3)
    for task in tasks:
        theirs.module.load_state_dict(ours.module.state_dict())
        learnt(ours, method, [task])
        learnt(theirs, published, [task])
        assert_same(weights(ours), weights(theirs), relative)


class Split(nn.Module):
    """W = U_h S_h V_h + U_l S_l V_l by singular values, in float32 as in PEFT; gradients leave U_h and V_h alone."""

    def __init__(self, layer, rank):
        super().__init__()
        u, s, v = (t.to(layer.weight) for t in torch.linalg.svd(layer.weight.detach().float(), full_matrices=False))
        self.u_h, self.v_h = u[:, :rank], v[:rank]
        self.fixed = layer.weight.detach() - (u[:, rank:] * s[rank:]) @ v[rank:]
        self.u, self.s, self.v = (nn.Parameter(t.clone()) for t in (u[:, rank:], s[rank:], v[rank:]))
        self.u.register_hook(self.columns)
        self.v.register_hook(self.rows)
        self.bias, self.layer = layer.bias.detach(), [layer]

    def columns(self, x):
        return x - self.u_h @ (self.u_h.T @ x)

    def rows(self, x):
        return x - (x @ self.v_h.T) @ self.v_h

    @property
    def out_features(self):
        return len(self.fixed)

    def weight(self):
        return self.fixed + (self.u * self.s) @ self.v

    def forward(self, x):
        return nn.functional.linear(x, self.weight(), self.bias)


class Sculpting(Method):
    """From the second task on: a share of each layer's directions frozen, and everything that is no linear layer."""

    task, exact, share = 0, False, staticmethod(lambda task: 0.5)

    def begin_task(self, experience):
        self.task += 1
        self.split = {}
        if self.task == 1:
            return
        self.model.module.requires_grad_(False)
        for name, layer in list(self.model.module.named_modules()):
            if isinstance(layer, nn.Linear):
                rank = int(self.share(self.task) * min(layer.weight.shape))
                layer.weight.requires_grad_(rank == 0)
                if rank:
                    self.split[name] = Split(layer, rank)
                    self.model.module.set_submodule(name, self.split[name])

    def after_step(self):
        for split in self.split.values() if self.exact else ():
            with torch.no_grad():
                split.u.copy_(split.columns(split.u))
                split.v.copy_(split.rows(split.v))

    def end_task(self, experience, data):
        for name, split in self.split.items():
            (layer,) = split.layer
            with torch.no_grad():
                layer.weight.copy_(split.weight())
            self.model.module.set_submodule(name, layer)
        self.model.module.requires_grad_(True)


def test_osft_peft_is_pefts_step():
    ours, theirs = ManyTensors(), ManyTensors()
    assert_same_tasks(preset("osft_peft", ours), ours, Sculpting(), theirs, range(3), 1e-6)


def test_osft_freezes_more_with_each_task_and_projects_the_factors():
    ours, theirs, published = ManyTensors(), ManyTensors(), Sculpting()
    published.exact, published.share = True, lambda task: (task - 1) / 10
    # PEFT's singular vectors are orthogonal to float32, and projecting with one half of them or the other shows that.
    assert_same_tasks(preset("osft", ours), ours, published, theirs, range(5), 2e-5)


class Packing(Method):
    """Masks as in PackNet: what nobody owns learns, is pruned by size, and what is kept learns once more."""

    def __init__(self, retrain, rest_learns_first):
        self.retrain, self.rest_learns_first, self.owners, self.number = retrain, rest_learns_first, {}, 0

    def begin_task(self, experience):
        self.number += 1
        for name, parameter in self.model.module.named_parameters():
            of_linear = name.startswith("layers.") and name.endswith("weight")
            if of_linear:
                self.owners.setdefault(name, torch.zeros_like(parameter))
            parameter.requires_grad_(of_linear or (self.rest_learns_first and self.number == 1))

    def phases(self, steps):
        after = round(self.retrain * steps)
        return [("learn", steps - after), ("retrain", after)]

    def begin_phase(self, name):
        named = dict(self.model.module.named_parameters())
        self.masks = {n: owner == 0 for n, owner in self.owners.items()}
        if name == "retrain":
            for n, free in self.masks.items():
                sizes = named[n].detach().abs()[free].sort().values
                cutoff = sizes[math.floor(0.75 * len(sizes)) - 1] if len(sizes) > 1 else -1.0
                self.masks[n] = free & (named[n].detach().abs() > cutoff)
                with torch.no_grad():
                    named[n][free & ~self.masks[n]] = 0.0
                self.owners[n][self.masks[n]] = self.number
        self.before = {n: named[n].detach().clone() for n in self.masks}

    def edit_gradients(self):
        for name, parameter in self.model.module.named_parameters():
            if name in self.masks and parameter.grad is not None:
                parameter.grad *= self.masks[name]

    def after_step(self):
        """Decay has shrunk what does not learn, too: put it back."""
        with torch.no_grad():
            for name, parameter in self.model.module.named_parameters():
                if name in self.masks:
                    parameter.copy_(torch.where(self.masks[name], parameter, self.before[name]))

    def end_task(self, experience, data):
        self.model.module.requires_grad_(True)


@pytest.mark.parametrize(
    ("name", "published"), [("packnet", Packing(0.3, True)), ("packnet_libero", Packing(0.5, False))]
)
def test_packnet_prunes_three_quarters_and_retrains(name, published):
    ours, theirs = ManyTensors(), ManyTensors()
    method = preset(name, ours)
    assert_same_tasks(method, ours, published, theirs, range(3), 1e-9)
    assert_same(method.owners, published.owners, 0.0)


def test_hft_trains_a_random_half_of_the_tensors_and_nothing_else():
    class Published(Method):
        frozen = ()

        def begin_task(self, experience):
            for name, parameter in self.model.module.named_parameters():
                parameter.requires_grad_(name not in self.frozen)

    ours, theirs, published = ManyTensors(), ManyTensors(), Published()
    method = preset("hft", ours)
    published.attach(theirs, 3)
    learnt(ours, method, [0])
    for task in (1, 2):
        theirs.module.load_state_dict(ours.module.state_dict())
        published.frozen = set(method.drawn(experience(task)))
        assert len(published.frozen) in (18, 19)  # of 37
        learnt(ours, method, [task])
        learnt(theirs, published, [task])
        assert_same(weights(ours), weights(theirs), 0.0)


def test_slca_learns_the_representation_at_a_tenth_of_the_rate():
    class Published(Method):
        task = 0

        def begin_task(self, experience):
            self.task += 1

        def make_optimizer(self, groups, learning_rate, weight_decay):
            named = self.model.module.named_parameters()
            slow = 0.1 if self.task > 1 else 1.0
            parts = [{"params": [p], "lr": learning_rate * (slow if "layers." in n else 1.0)} for n, p in named]
            return AdamW(parts, lr=learning_rate, weight_decay=weight_decay)

    ours, theirs = ManyTensors(), ManyTensors()
    assert_same_tasks(preset("slca", ours, slow=["layers.*"]), ours, Published(), theirs, range(3), 1e-12)


def test_layer_freezing_leaves_the_first_layers_as_they_are_from_the_second_task_on():
    class Published(Method):
        task = 0

        def begin_task(self, experience):
            self.task += 1
            for name, parameter in self.model.module.named_parameters():
                parameter.requires_grad_(self.task == 1 or not name.startswith(("layers.0.", "layers.1.")))

    ours, theirs = ManyTensors(), ManyTensors()
    method = preset("layer_freezing", ours, frozen=["layers.0.*", "layers.1.*"])
    assert_same_tasks(method, ours, Published(), theirs, range(3), 0.0)


class Blocks(RegressionModel):
    """Ten blocks of two layers and an output layer: 20 tensors of 9 entries and one of 6, in the order of their use."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        blocks = [{part: nn.Linear(3, 3, bias=False) for part in ("a", "b")} for _ in range(10)]
        head = nn.Linear(3, 2, bias=False)
        self._module = nn.ModuleDict({"blocks": nn.ModuleList(map(nn.ModuleDict, blocks)), "head": head}).double()

    def roles(self):
        return Roles(tuple(name for name, _ in self.module.named_parameters()), frozenset({"head.weight"}))

    def forward_pass(self, batch, draw):
        h = batch["x"].double()
        for block in self.module["blocks"]:
            h = h + block["b"](torch.tanh(block["a"](h)))
        outputs = self.module["head"](h)
        return ForwardPass((outputs - batch["y"].double()).square().mean(1), outputs)


def changed_by(name, task, earlier):
    """The tensors that a task changes, learnt with a preset as it ships after so many earlier ones."""
    model = Blocks()
    method = preset(name, model)
    learnt(model, method, range(earlier))
    before = weights(model)
    learnt(model, method, [task])
    return {name for name, now in weights(model).items() if not torch.equal(now, before[name])}


EVERY = {f"blocks.{number}.{part}.weight" for number in range(10) for part in "ab"} | {"head.weight"}


@pytest.mark.parametrize("name", ["hft", "layer_freezing", "slca"])
def test_as_it_ships_the_first_task_trains_everything(name):
    assert changed_by(name, 0, earlier=0) == EVERY


def test_layer_freezing_as_it_ships_freezes_the_first_half():
    """93 of 186 entries: ten tensors are 90, and a tenth of a share more or less would be another one."""
    frozen = {
        *("blocks.0.a.weight", "blocks.0.b.weight", "blocks.1.a.weight", "blocks.1.b.weight", "blocks.2.a.weight"),
        *("blocks.2.b.weight", "blocks.3.a.weight", "blocks.3.b.weight", "blocks.4.a.weight", "blocks.4.b.weight"),
    }
    for task in (1, 2):
        assert changed_by("layer_freezing", task, earlier=task) == EVERY - frozen


def test_hft_as_it_ships_freezes_one_of_two_siblings_in_every_block():
    trained = [changed_by("hft", task, earlier=task) for task in (1, 2)]
    for names in trained:
        assert [len({f"blocks.{n}.a.weight", f"blocks.{n}.b.weight"} & names) for n in range(10)] == [1] * 10
    assert trained[0] != trained[1]


def test_slca_as_it_ships_learns_all_but_the_output_layer_at_a_tenth_of_the_rate():
    method = preset("slca", model := Blocks())
    names = {id(parameter): name for name, parameter in model.module.named_parameters()}
    for task, slow in enumerate((1.0, 0.1, 0.1)):
        method.begin_task(experience(task))
        groups = method.make_optimizer(model.parameter_groups(2e-3), 2e-3, 0.1).param_groups
        rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
        assert rates == pytest.approx({name: 2e-3 * (1.0 if name == "head.weight" else slow) for name in EVERY})
        learnt(model, method, [task])


def test_the_tasks_are_learnt_in_several_steps():
    assert SETTINGS.steps > 4

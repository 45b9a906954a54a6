"""The presets that distil, filter steps or merge weights, against what their papers say, rewritten here."""

import numpy as np
import pytest
import torch
from many_tensors import ManyTensors, assert_same, gradients, learnt, moved, preset, weights
from tiny_model import TinyData, experience
from torch.nn import functional

from vla_cl.interfaces import Method
from vla_cl.testbeds import BEDS
from vla_cl.types import Ability, Draw, ForwardPass

DRAW = Draw(0)


def in_second_task(name, model, **changes):
    method = preset(name, model, **changes)
    learnt(model, method, [0])
    method.begin_task(experience(1))
    return method


def test_lwf_adds_the_mean_squared_distance_from_the_old_models_outputs():
    model, old = ManyTensors(), ManyTensors()
    method = in_second_task("lwf", model)
    old.module.load_state_dict(model.module.state_dict())
    moved(model)
    for rows in (np.arange(6), np.arange(6, 10)):
        batch = TinyData(10, seed=1).batch(rows)
        said = old.outputs(batch, DRAW).detach()
        theirs = model.loss(batch, DRAW) + ((model.outputs(batch, DRAW) - said) ** 2).flatten(1).mean(1)
        ours = method.loss(batch, DRAW)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
        assert_same(gradients(ours.mean(), model), gradients(theirs.mean(), model))


@pytest.mark.parametrize(("name", "factor"), [("lwf", 4.0), ("lwf_trace", 1.0)])
def test_of_tokens_lwf_adds_the_divergence_at_temperature_two(name, factor):
    """With T^2 (Hinton et al.), or without (TRACE); the mean over tokens that are learnt from, prompts left out."""
    bed = BEDS["language"]()
    model, old = bed.make_model(0), bed.make_model(0)
    method = preset(name, model, cache="never")
    method.end_task(bed.stream.experiences[0], bed.data[0])
    method.begin_task(bed.stream.experiences[1])
    moved(model)
    for rows in (np.arange(5), np.arange(5, 12)):
        batch = bed.data[1].batch(rows)
        ids, learnt_from = batch["input_ids"], batch["labels"][:, 1:] != -100
        new = functional.log_softmax(model.module(ids).logits[:, :-1] / 2, -1)
        before = functional.log_softmax(old.module(ids).logits[:, :-1] / 2, -1).detach()
        divergence = functional.kl_div(new, before, reduction="none", log_target=True).sum(-1)
        by_sample = torch.stack([row[chosen].mean() for row, chosen in zip(divergence, learnt_from, strict=True)])
        theirs = model.loss(batch, DRAW) + factor * by_sample
        ours = method.loss(batch, DRAW)
        assert (by_sample > 1e-3).all()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert_same(gradients(ours.mean(), model), gradients(theirs.mean(), model), 1e-4)


class Perceiving(ManyTensors):
    """What the fourth and the eighth layer say are its modalities."""

    @property
    def abilities(self):
        return super().abilities | {Ability.MODALITIES}

    @property
    def modalities(self):
        return ("vision", "state")

    def forward_pass(self, batch, draw):
        found = {}
        handles = [
            self._module.layers[layer].register_forward_hook(lambda *a, name=name: found.__setitem__(name, a[2]))
            for name, layer in (("vision", 4), ("state", 8))
        ]
        plain = super().forward_pass(batch, draw)
        for handle in handles:
            handle.remove()
        return ForwardPass(plain.losses, plain.outputs, found)


def test_m2distill_adds_the_squared_distance_of_each_modality_and_of_the_outputs():
    model, old = Perceiving(), Perceiving()
    method = in_second_task("m2distill", model)
    old.module.load_state_dict(model.module.state_dict())
    moved(model)
    for rows in (np.arange(6), np.arange(6, 10)):
        batch = TinyData(10, seed=1).batch(rows)
        now, before = model.forward_pass(batch, DRAW), old.forward_pass(batch, DRAW)
        theirs = now.losses + (now.outputs - before.outputs.detach()).square().flatten(1).mean(1)
        for modality, size in (("vision", 13), ("state", 17)):
            difference = now.modalities[modality] - before.modalities[modality].detach()
            theirs = theirs + difference.norm(dim=1) ** 2 / size
        ours = method.loss(batch, DRAW)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
        assert_same(gradients(ours.mean(), model), gradients(theirs.mean(), model))


def test_mofo_moves_the_fraction_with_the_largest_momentum():
    """The authors' step: moments and decay of all entries, a threshold in each tensor of more than one dimension."""

    class Published(Method):
        task = 0

        def begin_task(self, experience):
            self.task += 1

        def make_optimizer(self, groups, learning_rate, weight_decay):
            if self.task == 1:
                return super().make_optimizer(groups, learning_rate, weight_decay)
            return Filtered([p for group in groups for p in group["params"]], {"lr": learning_rate, "wd": weight_decay})

    class Filtered(torch.optim.Optimizer):
        t = 0

        @torch.no_grad()
        def step(self, closure=None):
            self.t += 1
            rate, decay = self.param_groups[0]["lr"], self.param_groups[0]["wd"]
            for p in self.param_groups[0]["params"]:
                state = self.state[p] or {"m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                m = state["m"] = 0.9 * state["m"] + 0.1 * p.grad
                v = state["v"] = 0.999 * state["v"] + 0.001 * p.grad**2
                self.state[p] = state
                if p.ndim > 1:
                    largest = m.abs().flatten().sort(descending=True).values
                    threshold = largest[max(1, int(0.15 * p.numel())) - 1]
                    m = torch.where(m.abs() >= threshold, m, 0.0)
                p *= 1 - rate * decay
                p -= rate * (m / (1 - 0.9**self.t)) / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8)

    ours, theirs, published = ManyTensors(), ManyTensors(), Published()
    published.attach(theirs, 3)
    learnt(ours, preset("mofo", ours), range(3))
    learnt(theirs, published, range(3))
    assert_same(weights(ours), weights(theirs), 1e-8)


@pytest.mark.parametrize(
    ("name", "changes", "share"),
    [("weight_merging", {}, 0.5), ("retain", {}, 0.5), ("retain", {"shares": {"layers.*": 0.2}}, 0.2)],
)
def test_merged_weights_are_the_interpolation(name, changes, share):
    merged, plain = ManyTensors(), ManyTensors()
    method, sequential = preset(name, merged, **changes), Method()
    sequential.attach(plain, 3)
    learnt(merged, method, [0])
    learnt(plain, sequential, [0])
    assert_same(weights(merged), weights(plain), 0.0)  # the first task keeps its weights
    for task in (1, 2):
        before = weights(merged)
        plain.module.load_state_dict(merged.module.state_dict())
        learnt(plain, sequential, [task])
        learnt(merged, method, [task])
        after = weights(plain)
        of = {n: share if n.startswith("layers.") else 0.5 for n in before}
        assert_same(weights(merged), {n: (1 - of[n]) * before[n] + of[n] * after[n] for n in before})

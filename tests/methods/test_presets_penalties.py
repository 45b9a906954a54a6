"""The presets that add a quadratic penalty, against what the code or paper that they name computes, rewritten here.

Each at its preset, on 37 tensors of 1 to 4,000 entries, with Fisher batches of different sizes.
"""

import numpy as np
import pytest
import torch
from many_tensors import (
    ManyTensors,
    assert_same,
    gradient_added,
    gradients,
    learnt,
    preset,
    weights,
)
from regression_model import RegressionModel
from tiny_model import TinyData, experience
from torch.nn import functional

from vla_cl.interfaces import Method
from vla_cl.types import Draw

DRAW = Draw(0)


def parameters(model):
    return dict(model.module.named_parameters())


def batches(rows, size):
    return [np.arange(first, min(first + size, rows)) for first in range(0, rows, size)]


def assert_penalty(method, model, penalty, relative=1e-9):
    """Value and gradient are those of ``penalty``, a function of the parameters by name."""
    anchor = weights(model)
    ours = gradient_added(method, model)
    value = penalty(parameters(model))
    assert value > 0
    assert_same(ours, gradients(value, model), relative)
    # A quadratic around the anchor is half of its gradient times the way from there.
    way = sum((ours[name] * (now - anchor[name])).sum() for name, now in weights(model).items()) / 2
    assert abs(way / value - 1) < relative


def by_batch(model, data, size):
    """Gradient of the mean loss of each batch, and the batch's size."""
    for rows in batches(len(data), size):
        yield len(rows), gradients(model.loss(data.batch(rows), DRAW).mean(), model)


def test_l2_is_the_sum_of_mean_squared_differences_of_clog():
    model = ManyTensors()
    method = preset("l2", model)
    learnt(model, method, [0])
    old = weights(model)
    assert_penalty(method, model, lambda now: sum(functional.mse_loss(now[n], old[n]) * 500.0 for n in old))


def test_l2_on_a_whole_run_is_the_penalty_in_the_loss():
    class Published(Method):
        old = None

        def loss(self, batch, draw):
            losses = self.model.loss(batch, draw)
            if self.old is None:
                return losses
            return losses + sum(functional.mse_loss(p, self.old[n]) * 500.0 for n, p in parameters(self.model).items())

        def end_task(self, experience, data):
            self.old = weights(self.model)

    assert_same_run("l2", Published())


def test_l2_sp_is_half_alpha_times_the_squared_distance_from_the_warm_start():
    model = ManyTensors()
    start = weights(model)
    method = preset("l2_sp", model)
    learnt(model, method, [0, 1])
    ours = gradient_added(method, model)
    value = 0.1 / 2 * sum((p - start[n]).square().sum() for n, p in parameters(model).items())
    assert_same(ours, gradients(value, model))


def test_ewc_libero_averages_squared_gradients_of_batches_of_32_in_training_mode():
    model, modes = ManyTensors(), []
    method = preset("ewc_libero", model)
    fisher = dict.fromkeys(parameters(model), 0.0)
    for task in range(2):
        learnt(model, method, [task], rows=75)
        data = TinyData(75, seed=task)
        found = list(by_batch(model, data, 32))
        assert [count for count, _ in found] == [32, 32, 11]
        fisher = {n: 0.9 * f + sum(g[n] ** 2 for _, g in found) / 3 for n, f in fisher.items()}
    old = weights(model)
    model.module.layers[0].register_forward_hook(lambda module, *_: modes.append(module.training))
    method._importance(experience(2), TinyData(4))
    assert modes == [True]
    assert_penalty(method, model, lambda now: 50000 * sum((fisher[n] * (now[n] - old[n]) ** 2).sum() for n in old))


def test_ewc_clog_weighs_squared_gradients_of_batches_of_1024_by_their_samples():
    model = ManyTensors()
    method = preset("ewc_clog", model)
    learnt(model, method, [0], rows=2500)
    fisher, count = dict.fromkeys(parameters(model), 0.0), 0
    for samples, gradient in by_batch(model, TinyData(2500), 1024):
        fisher = {n: f + gradient[n] ** 2 * samples for n, f in fisher.items()}
        count += samples
    assert count == 2500
    old = weights(model)
    assert_penalty(
        method, model, lambda now: 50000.0 * sum((fisher[n] / count * (now[n] - old[n]) ** 2).sum() for n in old)
    )


def test_the_batch_fisher_depends_on_the_batch_and_not_on_the_passes(monkeypatch):
    model = ManyTensors()
    found = []
    for size, most in ((1024, 64), (1024, 7), (64, 64)):
        monkeypatch.setattr("vla_cl.methods.per_sample_gradients_estimate.PASS", most)
        method = preset("ewc_clog", model, batch_size=size)
        method.end_task(experience(0), TinyData(300))
        found.append(method.penalty.importance)
    assert_same(found[0], found[1])
    assert sum(f.sum() for f in found[2].values()) > 1.02 * sum(f.sum() for f in found[0].values())


class WhileLearning(Method):
    """Fishers that TRACE and LLMCL take while they learn: the penalty in the loss, the gradient of both squared."""

    def __init__(self, strength, weight_of_step):
        self.strength, self.weight_of_step = strength, weight_of_step
        self.fisher, self.old, self.step = None, None, 0

    def begin_task(self, experience):
        self.step, self.of_task = 0, {n: torch.zeros_like(p) for n, p in parameters(self.model).items()}

    def loss(self, batch, draw):
        losses = self.model.loss(batch, draw)
        if self.fisher is None:
            return losses
        named = parameters(self.model).items()
        penalty = sum((self.fisher[n] * (p - self.old[n]) ** 2).sum() for n, p in named)
        return losses + 0.5 * self.strength * penalty

    def edit_gradients(self):
        self.step += 1
        for name, parameter in parameters(self.model).items():
            self.of_task[name] += parameter.grad**2 * self.weight_of_step(self.step)

    def end_task(self, experience, data):
        before = self.fisher or dict.fromkeys(self.of_task, 0.0)
        self.fisher = {n: before[n] + added for n, added in self.of_task.items()}
        self.old = weights(self.model)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("ewc_trace", lambda: WhileLearning(400, lambda step: 1 / 3)),  # 10 rows are 3 batches of 4
        ("ewc_llmcl", lambda: WhileLearning(0.1, lambda step: 1 / step)),
    ],
)
def test_fishers_that_are_taken_while_it_learns(name, published):
    theirs = published()
    ours = assert_same_run(name, theirs)
    assert_same(ours.penalty.importance, theirs.fisher, 1e-7)
    old, fisher = theirs.old, theirs.fisher
    strength = theirs.strength
    assert_penalty(
        ours,
        ours.model,
        lambda now: strength / 2 * sum((fisher[n] * (now[n] - old[n]) ** 2).sum() for n in old),
        1e-7,
    )


def by_sample(values, model, data):
    return [gradients(values(data.batch(np.array([row]))).sum(), model) for row in range(len(data))]


def test_ewc_is_the_decayed_fisher_of_the_data_each_divided_by_its_largest_entry():
    model = ManyTensors()
    method = preset("ewc", model, batch_size=7)
    fisher = dict.fromkeys(parameters(model), 0.0)
    for task in range(2):
        learnt(model, method, [task], rows=20)
        found = by_sample(lambda batch: model.loss(batch, DRAW), model, TinyData(20, seed=task))
        new = {n: sum(g[n] ** 2 for g in found) / 20 for n in fisher}
        largest = max(f.max() for f in new.values())
        fisher = {n: 0.9 * f + new[n] / largest for n, f in fisher.items()}
    old = weights(model)
    assert_penalty(method, model, lambda now: 1e4 / 2 * sum((fisher[n] * (now[n] - old[n]) ** 2).sum() for n in old))


def test_ewc_separate_is_a_quadratic_per_task_with_the_fisher_of_drawn_targets(monkeypatch):
    noise = torch.randn(20, 2, 2, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    model, kept = ManyTensors(), []
    monkeypatch.setattr(model, "drawn_targets", lambda outputs, batch, seeds: outputs + noise[batch["index"]])
    method = preset("ewc_separate", model, batch_size=7)
    for task in range(3):
        learnt(model, method, [task], rows=20)

        def of_targets(batch):
            outputs = model.outputs(batch, DRAW)
            return (outputs - (outputs.detach() + noise[batch["index"]])).square().flatten(1).mean(1)

        found = by_sample(of_targets, model, TinyData(20, seed=task))
        fisher = {n: sum(g[n] ** 2 for g in found) / 20 for n in found[0]}
        largest = max(f.max() for f in fisher.values())
        kept.append(({n: f / largest for n, f in fisher.items()}, weights(model)))

    def published(now):
        return 1e4 / 2 * sum((f[n] * (now[n] - w[n]) ** 2).sum() for f, w in kept for n in now)

    def ours():
        return method.penalty.value(parameters(model), method.strength, method.half)

    before = published(parameters(model)).item() - ours()
    added = gradient_added(method, model)
    assert_same(added, gradients(published(parameters(model)), model))
    assert abs((published(parameters(model)).item() - before) / ours() - 1) < 1e-9  # they differ by a constant


def test_mas_is_the_mean_over_samples_of_the_absolute_gradient_of_the_norms_of_rows():
    model = ManyTensors()
    method = preset("mas", model, batch_size=7)
    omega = dict.fromkeys(parameters(model), 0.0)
    for task in range(2):
        learnt(model, method, [task], rows=20)
        found = by_sample(lambda batch: model.outputs(batch, DRAW).norm(2, dim=-1), model, TinyData(20, seed=task))
        omega = {n: o + sum(g[n].abs() for g in found) / 20 for n, o in omega.items()}
    old, strength = weights(model), method.strength
    assert_penalty(
        method, model, lambda now: strength * sum((omega[n] * (old[n] - now[n]) ** 2).sum() / 2 for n in old)
    )


@pytest.mark.parametrize(
    ("norm", "value"),
    [("l2", lambda o: o.flatten(1).norm(2, dim=1)), ("l2_squared", lambda o: o.square().flatten(1).sum(1))],
)
def test_the_other_norms_of_mas(norm, value):
    model = ManyTensors()
    method = preset("mas", model, norm=norm)
    learnt(model, method, [0], rows=20)
    found = by_sample(lambda batch: value(model.outputs(batch, DRAW)), model, TinyData(20))
    assert_same(method.penalty.importance, {n: sum(g[n].abs() for g in found) / 20 for n in found[0]})


def test_the_norm_of_one_vector_per_sample_is_the_same_by_rows():
    model = RegressionModel(dtype=torch.float64)
    found = []
    for norm in ("l2", "l2_rows"):
        method = preset("mas", model, norm=norm)
        method.end_task(experience(0), TinyData(20))
        found.append(method.penalty.importance)
    assert_same(*found)


def test_si_is_the_path_integral_of_the_tasks_gradient():
    class Published(Method):
        """Zenke et al., equations 3 to 5; the task's own gradient by autograd, step by step."""

        def attach(self, model, train_seed):
            super().attach(model, train_seed)
            self.omega = {n: torch.zeros_like(p) for n, p in parameters(model).items()}
            self.old = weights(model)

        def begin_task(self, experience):
            self.path = {n: torch.zeros_like(p) for n, p in parameters(self.model).items()}

        def loss(self, batch, draw):
            losses, self.before = self.model.loss(batch, draw), weights(self.model)
            self.slope = gradients(self.model.loss(batch, draw).mean(), self.model)
            named = parameters(self.model).items()
            return losses + 100.0 * sum((self.omega[n] * (p - self.old[n]) ** 2).sum() for n, p in named)

        def after_step(self):
            for name, now in weights(self.model).items():
                self.path[name] -= self.slope[name] * (now - self.before[name])

        def end_task(self, experience, data):
            for name, now in weights(self.model).items():
                added = self.path[name] / ((now - self.old[name]) ** 2 + 0.01)
                self.omega[name] = (self.omega[name] + added).clamp(min=0)
            self.old = weights(self.model)

    theirs = Published()
    ours = assert_same_run("si", theirs)
    assert_same(ours.penalty.importance, theirs.omega, 1e-7)
    omega, old = theirs.omega, theirs.old
    assert_penalty(
        ours, ours.model, lambda now: 100.0 * sum((omega[n] * (now[n] - old[n]) ** 2).sum() for n in old), 1e-7
    )


def assert_same_run(name, published):
    """Three tasks end in the same weights; the preset's method."""
    ours, theirs = ManyTensors(), ManyTensors()
    method = preset(name, ours)
    published.attach(theirs, 3)
    learnt(ours, method, range(3))
    learnt(theirs, published, range(3))
    assert_same(weights(ours), weights(theirs), 1e-7)
    return method

"""What is promised of the steps that are taken: products of past gradients with the weights' change, step by step."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from method_presets import method_preset
from regression_model import RegressionModel
from tiny_model import TinyData, experience
from torch.optim import SGD, AdamW

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.methods.agem import AveragedGradientEpisodicMemory
from vla_cl.methods.gem import GradientEpisodicMemory
from vla_cl.methods.ogd import OrthogonalGradientDescent
from vla_cl.methods.stored_outputs import outputs_that_count
from vla_cl.testbeds import BEDS
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError, Draw

STEPS, TASKS = 12, 3
OPTIONS = {
    "agem": {"samples_per_task": 16},
    "gem": {"samples_per_task": 16, "batch_size": 8, "eps": 0.0, "margin": 0.0},
    "gem with its margin": {"samples_per_task": 16, "batch_size": 8, "eps": 0.0},
    "ogd": {"vectors_per_task": 5},
    "ogd_loss": {"vectors_per_task": 5},
}
"""A preset, and what differs from it as it ships; the margin is 0.5."""
bed_of = cache(lambda name: BEDS[name]())


def settings_of(name):
    return {**method_preset(name.partition(" ")[0]), **OPTIONS[name]}


def flat(tensors):
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


class Watch:
    """Learns three tasks and takes, for each step, the products of all past gradients with the weights' change.

    The gradients are taken again, on a copy of the model, of the losses or mean outputs that the method asked for.
    """

    def __init__(self, bed, method, gradient_descent=False):
        self.model, self.method = bed.make_model(0), method
        self.twin = copy.deepcopy(self.model)
        self.kept, self.asked, self.listening = [], [], False
        self.products, self.bounds = [], []
        self.of = getattr(method, "of", "loss")
        asked_for, edit, end = getattr(self.model, self.of), method.edit_gradients, method.end_task
        setattr(self.model, self.of, lambda batch, draw: (self.asked.append((batch, draw)), asked_for(batch, draw))[1])
        method.edit_gradients = lambda: (self.asked.clear(), edit())
        method.end_task = lambda experience, data: (self.asked.clear(), end(experience, data))
        if gradient_descent:
            method.make_optimizer = lambda groups, rate, decay: SGD(groups, lr=rate)
        self.method.attach(self.model, 0)
        settings = TrainingSettings(STEPS, 8, 3e-3, weight_decay=0.1, clip_norm=0.5)
        for index in range(TASKS):
            self.learn(bed.stream.experiences[index], bed.data[index], settings, index)

    def learn(self, task, data, settings, index):
        before = self.weights()
        for report in Learning(self.model, self.method, task, data, settings, 0, index * STEPS):
            after = self.weights()
            if index:
                self.compare(before, after)
            before = after
            last = report
        assert last.step == STEPS
        if isinstance(self.method, OrthogonalGradientDescent):
            self.kept += [self.gradient(batch, draw, before, training=False) for batch, draw in self.asked]

    def weights(self):
        return {name: tensor.detach().clone() for name, tensor in self.model.module.named_parameters()}

    def gradient(self, batch, draw, weights, training):
        self.twin.module.load_state_dict(weights, strict=False)
        self.twin.module.train(training)
        parameters = list(self.twin.module.parameters())
        value = getattr(self.twin, self.of)(batch, draw)
        value = outputs_that_count(value, batch) if self.of == "outputs" else value
        found = torch.autograd.grad(value.mean(), parameters, allow_unused=True)
        return flat(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))

    def compare(self, before, after):
        past = self.kept or [self.gradient(batch, draw, before, training=True) for batch, draw in self.asked]
        old, new = flat(before.values()), flat(after.values())
        change, single = new - old, new.abs().float()
        rounding = (torch.nextafter(single, torch.tensor(torch.inf)) - single).double()  # of a stored weight
        for vector in past:
            self.products.append((vector @ change).item())
            bound = vector.abs() @ rounding + 1e-5 * vector.norm() * change.norm()
            self.bounds.append(bound.item())
            assert bound < 2e-2 * vector.norm() * change.norm()  # else nothing would be tested


@cache
def watched(bed, name, project, gradient_descent=False):
    method = build({**settings_of(name), "project": project}, Method)
    watch = Watch(bed_of(bed), method, gradient_descent)
    return np.array(watch.products), np.array(watch.bounds)


def violations(name, products, bounds):
    """Steps of (step, past gradient) that break the promise by more than rounding."""
    return (np.abs(products) > bounds).sum() if name.startswith("ogd") else (products > bounds).sum()


@pytest.mark.parametrize("bed", BEDS)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_projected_step_of_adamw_with_decay_and_clipping_keeps_the_promise(bed, name):
    products, bounds = watched(bed, name, "step")
    pairs = {"agem": 2, "gem": 3, "gem with its margin": 3, "ogd": 15, "ogd_loss": 15}[name] * STEPS
    assert len(products) == pairs
    assert violations(name, products, bounds) == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_a_projected_gradient_promises_steps_of_gradient_descent(name):
    assert violations(name, *watched("policy_regression", name, "gradient", gradient_descent=True)) == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_a_projected_gradient_promises_nothing_of_steps_of_adamw(name):
    products, bounds = watched("policy_regression", name, "gradient")
    assert violations(name, products, bounds) > 0.05 * len(products)


def opposed(seed):
    data = TinyData(seed=seed)
    data.y = -data.y
    return data


def one_step(name, project, optimizer, rate=1e-2, **options):
    """The weights' change by one step on a third task, in float64, and the optimizer."""
    model = RegressionModel(dtype=torch.float64)
    settings = {**settings_of(name), "samples_per_task": 20, "project": project}
    if name.startswith("ogd"):
        del settings["samples_per_task"]
    method = build({**settings, **options}, Method)
    method.attach(model, 0)
    made = []
    method.make_optimizer = lambda groups, rate, decay: made.append(optimizer(groups)) or made[-1]
    for index in range(2):
        method.end_task(experience(index), TinyData(seed=index))
    before = flat(model.module.parameters())
    for _ in Learning(model, method, experience(2), opposed(1), TrainingSettings(1, 8, rate, clip_norm=0), 0, 2):
        pass
    return flat(model.module.parameters()) - before, made[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_for_gradient_descent_both_projections_are_the_same(name):
    step, _ = one_step(name, "step", SGD)
    gradient, _ = one_step(name, "gradient", SGD)
    torch.testing.assert_close(step, gradient, rtol=1e-8, atol=1e-12)
    plain, _ = one_step("ogd_loss", "step", SGD, vectors_per_task=0)
    assert (plain - step).norm() > 1e-2 * plain.norm()


@pytest.mark.parametrize("name", OPTIONS)
def test_the_optimizers_moments_stay_those_of_the_gradient_that_it_was_given(name):
    ours, plain = one_step(name, "step", AdamW), one_step("ogd_loss", "step", AdamW, vectors_per_task=0)
    assert not torch.equal(ours[0], plain[0])
    states = [list(optimizer.state.values()) for _, optimizer in (ours, plain)]
    assert len(states[0]) == 4
    for one, other in zip(*states, strict=True):
        assert torch.equal(one["exp_avg"], other["exp_avg"])
        assert torch.equal(one["exp_avg_sq"], other["exp_avg_sq"])


def test_the_margin_of_a_step_is_scaled_by_its_length():
    """The step is -rate x (g + G^T v), whatever the rate: v has the unit of a share of gradients."""
    found = [one_step("gem", "step", SGD, rate, margin=3.0)[0] / rate for rate in (1e-6, 1e-1)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)
    assert not torch.allclose(found[1], one_step("gem", "step", SGD, 1e-1)[0] / 1e-1, rtol=1e-2)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_parameter_without_gradient_does_not_move(name):
    model = RegressionModel(dtype=torch.float64)
    method = build({**settings_of(name), "project": "step"}, Method)
    method.attach(model, 0)
    method.end_task(experience(0), TinyData(seed=1))
    vectors = [block.matrix for block in method.basis] if name.startswith("ogd") else []
    before = [parameter.detach().clone() for parameter in model.module.parameters()]
    optimizer = AdamW(model.module.parameters(), lr=1e-2, weight_decay=0.1)
    batch = opposed(1).batch(np.arange(8))
    model.loss(batch, Draw(0)).mean().backward()
    model.module[0].bias.grad = None
    method.compose(batch, 0)
    method.edit_gradients()
    optimizer.step()
    method.after_step()
    changes = [new.detach() - old for new, old in zip(model.module.parameters(), before, strict=True)]
    assert [bool(change.any()) for change in changes] == [True, False, True, True]
    for matrix in vectors:
        assert (matrix @ flat(changes)).abs().max() < 1e-12


@pytest.mark.parametrize("method", [AveragedGradientEpisodicMemory, GradientEpisodicMemory, OrthogonalGradientDescent])
def test_what_cannot_be_projected_is_refused(method):
    with pytest.raises(ConfigurationError, match=r"method.project must be one of gradient, step; got 'weights'"):
        method(project="weights")


@pytest.mark.parametrize("method", ["agem", "gem", "ogd_loss"])
def test_weights_that_round_a_step_away_are_refused(method):
    settings = {**method_preset(method), "project": "step"} | ({"eps": 0.0} if method == "gem" else {})
    model = RegressionModel()
    model.module.to(torch.bfloat16)
    with pytest.raises(ConfigurationError, match="needs weights of float32, since bfloat16 rounds"):
        build(settings, Method).attach(model, 0)
    build({**settings, "project": "gradient"}, Method).attach(model, 0)


def test_gem_refuses_to_promise_of_steps_what_eps_takes_away():
    with pytest.raises(ConfigurationError, match=r"method.eps must be 0 with method.project=step.*give method.eps=0"):
        GradientEpisodicMemory(project="step")

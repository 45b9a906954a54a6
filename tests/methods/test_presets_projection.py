"""The presets that project gradients, as they are in conf/method, against the published steps, written again here.

A model of ten tensors of different sizes learns a third task in several batches by gradient descent.
"""

import itertools

import numpy as np
import torch
from method_presets import method_preset
from regression_model import RegressionModel
from tiny_model import TinyData, experience
from torch import nn

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.types import Draw, ForwardPass

BATCHES, RATE, SEED = 8, 0.05, 3


class DeepModel(RegressionModel):
    """Notes what is asked of it."""

    def __init__(self):
        torch.manual_seed(0)
        hidden = [nn.Sequential(nn.Linear(*sizes), nn.Tanh()) for sizes in itertools.pairwise([3, 40, 17, 9])]
        self._module = nn.Sequential(*hidden, nn.LayerNorm(9), nn.Linear(9, 2)).double()
        self.asked = []

    def forward_pass(self, batch, draw):
        self.asked.append(batch)
        outputs = self._module(3 * batch["x"].double())
        return ForwardPass((outputs - batch["y"].double()).square().mean(1), outputs)


class Turned(TinyData):
    """Tasks that contradict each other: the same inputs, turned outputs; ``index`` tells the task too."""

    def __init__(self, task, rows):
        super().__init__(rows, seed=1)
        angle = 2.0 * task
        turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        self.y = self.x[:, :2] @ torch.tensor(turn, dtype=torch.float32)
        self.task = task

    def batch(self, rows):
        return {**super().batch(rows), "index": torch.from_numpy(np.asarray(rows)) + 10_000 * self.task}


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def gradient(model, batch):
    parameters = list(model.module.parameters())
    return flat(torch.autograd.grad(model.loss(batch, Draw(0)).mean(), parameters))


def learnt(name, tasks, rows):
    """The preset, after some tasks, and its model."""
    model, method = DeepModel(), build(method_preset(name), Method)
    assert len({parameter.shape for parameter in model.module.parameters()}) > 6
    method.attach(model, SEED)
    for task in range(tasks):
        method.begin_task(experience(task))
        method.end_task(experience(task), Turned(task, rows))
    return model, method


def steps(model, method, data, size):
    """Gradient descent: of each batch its gradient, what the method asked the model, and the edited gradient."""
    parameters = list(model.module.parameters())
    for step in range(BATCHES):
        batch = method.compose(data.batch(np.arange(step * size, (step + 1) * size)), step)
        model.module.zero_grad()
        method.loss(batch, Draw(0)).mean().backward()
        plain = flat(parameter.grad for parameter in parameters)
        model.asked.clear()
        method.edit_gradients()
        yield plain, list(model.asked), flat(parameter.grad for parameter in parameters)
        with torch.no_grad():
            for parameter in parameters:
                parameter -= RATE * parameter.grad
        method.after_step()


def test_agem_is_equation_11_with_liberos_numbers():
    """Arguments: 1000 samples of each task; in a step as many of all past tasks together as there are new ones."""
    model, method = learnt("agem", tasks=3, rows=1200)
    assert len(method.memory) == 3000
    projected = 0
    for plain, (remembered,), edited in steps(model, method, Turned(1.5, 400), size=16):
        assert len(remembered["task"]) == 16
        assert len(set((remembered["index"] // 10_000).tolist())) > 1
        reference = gradient(model, remembered)
        wanted = plain
        if plain @ reference < 0:
            wanted = plain - (plain @ reference) / (reference @ reference) * reference
            projected += 1
        torch.testing.assert_close(edited, wanted, rtol=1e-10, atol=1e-12)
    assert 0 < projected < BATCHES


def test_agem_libero_remembers_the_first_samples():
    _, method = learnt("agem_libero", tasks=2, rows=1200)
    assert [rows for name, rows in method.memory.index().items() if name.startswith("e")] == [list(range(1000))] * 2


def gem_dual(gram, products, margin=0.5, eps=1e-3):
    """min 1/2 v P v + p v, v >= margin, with P = G G^T + eps I, by trying every set of bounds that may hold."""
    matrix, count = gram + eps * np.eye(len(gram)), len(gram)
    for bound in itertools.chain.from_iterable(itertools.combinations(range(count), size) for size in range(count + 1)):
        free = [place for place in range(count) if place not in bound]
        found = np.full(count, margin)
        found[free] = np.linalg.solve(
            matrix[np.ix_(free, free)], -products[free] - margin * matrix[np.ix_(free, bound)].sum(1)
        )
        slope = matrix @ found + products
        if (found >= margin - 1e-12).all() and (slope[list(bound)] >= -1e-12).all():
            return found
    raise AssertionError("no set of bounds is optimal")


def test_gem_is_the_authors_code():
    """Each past task's gradient a row; untouched where no product is negative; else g + G^T v, v at least 0.5."""
    model, method = learnt("gem", tasks=3, rows=300)
    projected, above = 0, 0
    for plain, asked, edited in steps(model, method, Turned(0.6, 400), size=16):
        assert [len(batch["task"]) for batch in asked] == [32, 32, 32]
        assert [(batch["index"] // 10_000).unique().tolist() for batch in asked] == [[0], [1], [2]]
        rows = torch.stack([gradient(model, batch) for batch in asked])
        wanted = plain
        if (rows @ plain < 0).any():
            factors = gem_dual((rows @ rows.T).numpy(), (rows @ plain).numpy())
            wanted = plain + torch.from_numpy(factors) @ rows
            projected += 1
            above += bool((factors > 0.5).any())
        torch.testing.assert_close(edited, wanted, rtol=1e-7, atol=1e-10)
    assert projected
    assert above


def test_ogd_is_the_papers_ogd_ave():
    """Gram-Schmidt of the gradients of each sample's mean output, of all past tasks; g without their span."""
    model, method = DeepModel(), build(method_preset("ogd"), Method)
    method.attach(model, SEED)
    basis = []
    for task in range(2):
        model.asked.clear()
        method.begin_task(experience(task))
        method.end_task(experience(task), Turned(task, 200))
        samples = list(model.asked)
        assert [len(batch["task"]) for batch in samples] == [1] * 20
        for batch in samples:
            outputs = model.outputs(batch, Draw(0))
            vector = flat(torch.autograd.grad(outputs.mean(), list(model.module.parameters())))
            left = vector.clone()
            for earlier in basis:
                left -= (left @ earlier) * earlier
            if left.norm() > 1e-4 * vector.norm():
                basis.append(left / left.norm())
        move(model)
    assert len(basis) > 30
    for plain, asked, edited in steps(model, method, Turned(2, 400), size=16):
        assert not asked
        wanted = plain.clone()
        for vector in basis:
            wanted -= (wanted @ vector) * vector
        torch.testing.assert_close(edited, wanted, rtol=1e-7, atol=1e-9)
        assert (wanted - plain).norm() > 0.05 * plain.norm()


def move(model):
    """Other weights, as after learning."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)

"""What papers say of each method holds on the test beds, at its preset unless said otherwise.

Forgetting is the rise of a task's held-out loss from just after it was learnt to the end of the stream, averaged over
tasks; its share is that of plain fine-tuning with the same seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from method_neutral import method_settings
from numpy.typing import NDArray
from torch.optim import SGD

from vla_cl.compose import build
from vla_cl.interfaces import Method
from vla_cl.testbeds import BEDS

pytestmark = pytest.mark.slow

SEEDS = (0, 1)

LARGEST_SHARE = {
    "policy_regression": {
        "agem": 0.8,
        "cama": 0.3,
        "der": 0.5,
        "der_pp": 0.3,
        "er": 0.1,
        "er_coin_flip": 0.7,
        "er_replaced": 0.3,
        "ewc": 0.95,
        "ewc_libero": 0.95,
        "ewc_separate": 0.97,
        "gem": 0.2,
        "hft": 0.85,
        "layer_freezing": 0.85,
        "lwf": 0.8,
        "m2distill": 0.7,
        "mas": 0.95,
        "mir": 0.2,
        "osft": 0.85,
        "osft_peft": 0.85,
        "retain": 0.8,
        "si": 0.95,
        "weight_merging": 0.8,
    },
    "policy_flow": {
        "agem": 0.9,
        "cama": 0.2,
        "der": 0.4,
        "der_pp": 0.2,
        "er": 0.1,
        "er_coin_flip": 0.85,
        "er_replaced": 0.1,
        "ewc": 0.85,
        "ewc_separate": 0.9,
        "gem": 0.3,
        "hft": 0.8,
        "lwf": 0.7,
        "lwf_trace": 0.97,
        "m2distill": 0.6,
        "mir": 0.1,
        "retain": 0.85,
        "si": 0.9,
        "weight_merging": 0.85,
    },
    "language": {
        "agem": 0.9,
        "cama": 0.1,
        "der": 0.3,
        "der_pp": 0.1,
        "er": 0.1,
        "er_coin_flip": 0.1,
        "er_replaced": 0.1,
        "ewc": 0.8,
        "ewc_libero": 0.97,
        "ewc_separate": 0.8,
        "gem": 0.1,
        "generative_distillation": 0.1,
        "generative_replay": 0.3,
        "l2": 0.97,
        "l2_sp": 0.85,
        "lamol": 0.1,
        "lwf": 0.4,
        "lwf_trace": 0.6,
        "mas": 0.1,
        "mir": 0.1,
        "retain": 0.8,
        "si": 0.4,
        "weight_merging": 0.8,
    },
    "diffusion": {
        "agem": 0.9,
        "cama": 0.1,
        "der": 0.3,
        "der_pp": 0.1,
        "er": 0.1,
        "er_coin_flip": 0.2,
        "er_replaced": 0.1,
        "ewc": 0.3,
        "ewc_clog": 0.6,
        "ewc_libero": 0.6,
        "ewc_separate": 0.4,
        "gem": 0.3,
        "generative_distillation": 0.3,
        "hft": 0.95,
        "l2": 0.95,
        "lwf": 0.7,
        "lwf_trace": 0.9,
        "mas": 0.5,
        "mir": 0.1,
        "retain": 0.9,
        "si": 0.9,
        "weight_merging": 0.9,
    },
}
"""Bed to method to the share of sequential fine-tuning's forgetting that it may have at most, whatever the seed."""


@dataclass(frozen=True)
class Run:
    losses: NDArray[np.float64]  # row i after task i, column j of task j
    moved: float  # how far the weights went from task border to task border, from the second task on
    from_start: float  # how far the weights are from those before the first task

    @property
    def forgetting(self):
        last = len(self.losses) - 1
        return float(np.mean([self.losses[last, task] - self.losses[task, task] for task in range(last)]))

    @property
    def of_new_tasks(self):
        return float(np.mean(np.diag(self.losses)[1:]))

    @property
    def before_new_tasks(self):
        return float(np.mean(np.diag(self.losses, 1)))


@cache
def bed_named(name):
    return BEDS[name]()


def runs(bed, method, rate_of_descent=None, **changes):
    """One for each seed. With a ``rate_of_descent`` the optimizer is plain gradient descent."""
    settings = {**method_settings()[method], **changes}
    del settings["name"]  # the same settings under another name are the same run
    return _runs(bed, json.dumps(settings, sort_keys=True), rate_of_descent)


@cache
def _runs(bed, settings, rate_of_descent):
    return [_run(bed_named(bed), build(json.loads(settings), Method), seed, rate_of_descent) for seed in SEEDS]


def _run(bed, method, seed, rate_of_descent):
    model, training = bed.make_model(seed), bed.training
    borders = [weights(model)]
    end_task = method.end_task

    def end_and_note(experience, data):
        end_task(experience, data)
        borders.append(weights(model))

    method.end_task = end_and_note
    if rate_of_descent is not None:
        training = replace(training, learning_rate=rate_of_descent)
        method.make_optimizer = lambda groups, learning_rate, weight_decay: SGD(groups, lr=learning_rate)
    losses = bed.run(method, seed, training=training, model=model)
    ways = [(after - before).norm().item() for before, after in pairwise(borders)]
    return Run(losses, sum(ways[1:]), (borders[-1] - borders[0]).norm().item())


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


def shares(ours, plain):
    assert min(run.forgetting for run in plain) > 0.05  # else there is nothing to be better at
    return [run.forgetting / other.forgetting for run, other in zip(ours, plain, strict=True)]


@pytest.mark.parametrize(("bed", "name"), [(bed, name) for bed in LARGEST_SHARE for name in LARGEST_SHARE[bed]])
def test_it_forgets_less_than_sequential_fine_tuning(bed, name):
    ours = runs(bed, name)
    found = shares(ours, runs(bed, "sequential"))
    assert max(found) <= LARGEST_SHARE[bed][name], found
    assert all(run.of_new_tasks <= 0.9 * run.before_new_tasks for run in ours), "it forgets less by learning nothing"


@pytest.mark.parametrize("bed", BEDS)
@pytest.mark.parametrize("name", ["packnet", "packnet_libero"])
def test_told_the_task_packnet_forgets_nothing_at_all(bed, name):
    for run in runs(bed, name):
        for task in range(3):
            assert (run.losses[task:, task] == run.losses[task, task]).all()
        assert run.of_new_tasks <= 0.9 * run.before_new_tasks

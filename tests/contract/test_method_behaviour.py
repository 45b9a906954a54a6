"""What papers say of each method holds on the test beds, for every seed, at its preset unless a setting is named.

Forgetting is the rise of a task's held-out loss from just after it was learnt to the end of the stream, averaged over
tasks; its share is that of plain fine-tuning with the same seed. Whatever forgets less must also learn the new tasks.

Said of some methods is something else. PackNet forgets nothing, to the last bit, when it is told the task. MoFO, L2,
RETAIN and the slow learner (SLCA) stay nearer to the weights of the last task, L2-SP to those before the first. OGD is
about gradient descent; AdamW's scaling undoes it. What a diffusion model generates costs it the old tasks unless it is
distilled (Masip et al. 2023): generative replay and LAMOL forget more there than plain fine-tuning does, also with
fifty denoising steps and as many pictures as there were samples.

Two seeds are run. Shares that two seeds had come near to were measured with six, and hold for all of them.

Where all samples fit into the memory, as here, ``er_libero`` is ``er``, so it is not run again.

That a method forgets less at its preset is not claimed where it does not for every seed, or not by a clear margin:

* on all beds: ``ewc_llmcl``, whose strength belongs to large models, ``ogd`` and ``ogd_loss``; but for the language
  bed ``ewc_trace`` too;
* policy_regression: ``ewc_clog``, ``ewc_libero``, ``l2``, ``l2_sp``, ``lwf_trace``, ``mofo``, ``slca``;
* policy_flow: ``ewc_clog``, ``ewc_libero``, ``l2``, ``layer_freezing``, ``mas``, ``mofo``, ``osft``, ``osft_peft``,
  ``slca``; ``l2_sp`` learns nothing there, nor, for some seeds, ``ewc_separate`` and ``si``;
* language: ``hft``, ``layer_freezing``, ``mofo``, ``osft``;
* diffusion: ``ewc_clog``, to whose batches of 1,024 a task is a single one, ``hft``, ``layer_freezing``, ``mofo``,
  ``slca``, ``l2_sp``, whose warm start is random weights; ``osft_peft`` hardly learns.

On policy_flow, where one of the seeds learns its tasks by halves only, SLCA, MoFO and L2 learn less than plain
fine-tuning, so nothing else is claimed of them there. OGD of losses does not forget less than gradient descent for
every seed.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from method_neutral import method_settings
from numpy.typing import NDArray
from torch.optim import SGD
from whole_bed import bed_named, learnt_stream

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.metrics import load_matrix
from vla_cl.run.underway import MODEL
from vla_cl.testbeds import BEDS

pytestmark = pytest.mark.slow

SEEDS = (0, 1)
STEPS = {"language": 75, "diffusion": 75}
"""Bed to steps per task, where half of the bed's own are enough to see it."""
SETTINGS = method_settings()

LARGEST_SHARE = {
    "policy_regression": {
        "agem": 0.8,
        "cama": 0.3,
        "der": 0.5,
        "der_pp": 0.3,
        "er": 0.1,
        "er_coin_flip": 0.9,
        "er_replaced": 0.3,
        "ewc": 0.95,
        "ewc_separate": 0.97,
        "gem": 0.2,
        "hft": 0.97,
        "layer_freezing": 0.85,
        "lwf": 0.8,
        "m2distill": 0.7,
        "mas": 0.97,
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
        "gem": 0.3,
        "hft": 0.8,
        "lwf": 0.7,
        "lwf_trace": 0.97,
        "m2distill": 0.6,
        "mir": 0.1,
        "retain": 0.85,
        "weight_merging": 0.85,
    },
    "language": {
        "agem": 0.7,
        "cama": 0.1,
        "der": 0.75,
        "der_pp": 0.1,
        "er": 0.1,
        "er_coin_flip": 0.5,
        "er_replaced": 0.1,
        "ewc": 0.6,
        "ewc_clog": 0.8,
        "ewc_libero": 0.75,
        "ewc_separate": 0.5,
        "ewc_trace": 0.7,
        "gem": 0.1,
        "generative_distillation": 0.1,
        "generative_replay": 0.3,
        "l2": 0.95,
        "l2_sp": 0.75,
        "lamol": 0.4,
        "lwf": 0.45,
        "lwf_trace": 0.6,
        "mas": 0.4,
        "mir": 0.1,
        "osft_peft": 0.95,
        "retain": 0.7,
        "si": 0.5,
        "slca": 0.95,
        "weight_merging": 0.7,
    },
    "diffusion": {
        "agem": 0.95,
        "cama": 0.1,
        "der": 0.3,
        "der_pp": 0.1,
        "er": 0.1,
        "er_coin_flip": 0.2,
        "er_replaced": 0.1,
        "ewc": 0.2,
        "ewc_libero": 0.6,
        "ewc_separate": 0.35,
        "gem": 0.3,
        "generative_distillation": 0.3,
        "l2": 0.9,
        "lwf": 0.6,
        "lwf_trace": 0.9,
        "mas": 0.6,
        "mir": 0.1,
        "osft": 0.7,
        "retain": 0.5,
        "si": 0.6,
        "weight_merging": 0.5,
    },
}
"""Bed to method to the share of sequential fine-tuning's forgetting that it may have at most, whatever the seed."""

AT_A_SETTING = {
    "policy_regression": [
        ("l2", {"strength": 100000.0, "reduction": "mean"}, 0.9),
        ("l2_sp", {"strength": 1.0}, 0.9),
        ("osft", {"effective_rank": 0.9}, 0.7),
        ("slca", {"slow_share": 0.01}, 0.9),
    ],
    "language": [
        ("hft", {"frozen_share": 0.75}, 0.85),
        ("l2", {"strength": 20000.0, "reduction": "mean"}, 0.8),
        ("layer_freezing", {"first_share": 0.9}, 0.7),
        ("mas", {"strength": 1.0}, 0.7),
        ("osft", {"effective_rank": 0.75}, 0.85),
        ("slca", {"slow_share": 0.01}, 0.7),
    ],
    "diffusion": [
        ("ewc_clog", {"batch_size": 64}, 0.7),
    ],
}
"""Bed to methods that need another setting than the preset's, the setting, and the largest share as above."""

LARGEST_WAY = {"l2": 0.5, "mofo": 0.75, "retain": 0.6, "slca": 0.4}
"""Method to how far its weights go in later tasks, at most, as a share of sequential fine-tuning's way."""

ENDS_BETTER = {
    "policy_regression": (0.5, ["cama", "der", "der_pp", "er", "er_replaced", "gem", "mir"]),
    "policy_flow": (0.7, ["cama", "der", "der_pp", "er", "er_replaced", "gem", "mir"]),
    "language": (
        0.3,
        ["cama", "der_pp", "er", "er_replaced", "gem", "mir", "generative_distillation", "generative_replay"],
    ),
    "diffusion": (0.97, ["cama", "der", "der_pp", "er", "er_replaced", "gem", "generative_distillation", "mir"]),
}
"""Bed to the largest share of sequential fine-tuning's final loss over all tasks, and the methods it holds for."""

KEPT_OF_LOSS = {"policy_regression": 0.8, "policy_flow": 0.9, "language": 0.25, "diffusion": 0.92}
"""Bed to how much of a new task's loss may be left when it has been learnt, at most."""


@dataclass(frozen=True)
class Run:
    losses: NDArray[np.float64]  # row i after task i, column j of task j
    way: float  # how far the weights before the output layer went from task border to task border, after the first task
    from_start: float  # how far they are from where they were before the first task

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


def runs(bed, method, rate_of_descent=None, **changes):
    """One for each seed. With a ``rate_of_descent`` the optimizer is plain gradient descent."""
    settings = {**SETTINGS[method], **changes}
    del settings["name"]  # the same settings under another name are the same run
    return _runs(bed, json.dumps(settings, sort_keys=True), rate_of_descent)


@cache
def _runs(bed, settings, rate_of_descent):
    count = len(SEEDS)
    return list(_processes().map(_run, [bed] * count, [settings] * count, SEEDS, [rate_of_descent] * count))


@cache
def _processes():
    """One for each seed: such small models learn no faster with several threads."""
    begin = partial(torch.set_num_threads, 1)
    return ProcessPoolExecutor(len(SEEDS), mp_context=get_context("spawn"), initializer=begin)


@pytest.fixture(scope="module", autouse=True)
def processes_end():
    yield
    _processes().shutdown()


def _run(bed, settings, seed, rate_of_descent):
    method, bed = build(json.loads(settings), Method), bed_named(bed)
    training = replace(bed.training, steps=STEPS.get(bed.name, bed.training.steps), save_every=0)
    if rate_of_descent is not None:
        training = replace(training, learning_rate=rate_of_descent)
        method.make_optimizer = lambda groups, learning_rate, weight_decay: SGD(groups, lr=learning_rate)
    with TemporaryDirectory() as folder:
        run = learnt_stream(bed.name, method, Path(folder, "run"), training, seed)
        saved = [bed.load_model(checkpoint / MODEL) for checkpoint in sorted((run / "checkpoints").glob("0*"))]
        losses = load_matrix(run).scores
    borders = [weights(model) for model in (bed.make_model(seed), *saved)]
    ways = [(after - before).norm().item() for before, after in pairwise(borders)]
    assert len(ways) == len(losses) == 3
    return Run(losses, sum(ways[1:]), (borders[-1] - borders[0]).norm().item())


def weights(model):
    output = model.roles().outputs
    parameters = model.module.named_parameters()
    return torch.cat([parameter.detach().flatten() for name, parameter in parameters if name not in output])


def shares(ours, plain):
    assert min(run.forgetting for run in plain) > 0.05  # else there is nothing to be better at
    return [run.forgetting / other.forgetting for run, other in zip(ours, plain, strict=True)]


@pytest.mark.parametrize(("bed", "name"), [(bed, name) for bed in LARGEST_SHARE for name in LARGEST_SHARE[bed]])
def test_it_forgets_less_than_sequential_fine_tuning(bed, name):
    assert_forgets_less(bed, runs(bed, name), runs(bed, "sequential"), LARGEST_SHARE[bed][name])


def assert_forgets_less(bed, ours, plain, largest):
    found = shares(ours, plain)
    assert max(found) <= largest, found
    assert_learnt(bed, ours)


def assert_learnt(bed, found):
    kept = [run.of_new_tasks / run.before_new_tasks for run in found]
    assert max(kept) <= KEPT_OF_LOSS[bed], f"it forgets less by learning less: {kept}"


@pytest.mark.parametrize(
    ("bed", "name", "changes", "largest"), [(bed, *claim) for bed, claims in AT_A_SETTING.items() for claim in claims]
)
def test_at_this_setting_it_forgets_less(bed, name, changes, largest):
    assert_forgets_less(bed, runs(bed, name, **changes), runs(bed, "sequential"), largest)


def test_ogd_forgets_less_than_plain_gradient_descent():
    plain = runs("policy_regression", "sequential", rate_of_descent=0.1)
    ours = runs("policy_regression", "ogd", rate_of_descent=0.1, vectors_per_task=256)
    assert_forgets_less("policy_regression", ours, plain, 0.99)  # six seeds: .62 to .98


@pytest.mark.parametrize("bed", BEDS)
@pytest.mark.parametrize("name", ["packnet", "packnet_libero"])
def test_told_the_task_packnet_forgets_nothing_at_all(bed, name):
    found = runs(bed, name)
    assert_learnt(bed, found)
    for run in found:
        for task in range(3):
            assert (run.losses[task:, task] == run.losses[task, task]).all()


@pytest.mark.parametrize(("bed", "name"), [(bed, name) for bed in ENDS_BETTER for name in ENDS_BETTER[bed][1]])
def test_over_all_tasks_it_ends_better_than_sequential_fine_tuning(bed, name):
    pairs = zip(runs(bed, name), runs(bed, "sequential"), strict=True)
    found = [ours.losses[-1].mean() / plain.losses[-1].mean() for ours, plain in pairs]
    assert max(found) <= ENDS_BETTER[bed][0], found


@pytest.mark.parametrize("bed", BEDS)
def test_labels_beside_stored_outputs_forget_less(bed):
    pairs = zip(runs(bed, "der_pp"), runs(bed, "der"), strict=True)
    assert all(with_labels.forgetting < outputs_only.forgetting for with_labels, outputs_only in pairs)


def test_generated_pictures_are_to_be_distilled_not_learnt_as_data():
    pairs = zip(runs("diffusion", "generative_distillation"), runs("diffusion", "generative_replay"), strict=True)
    found = [distilled.forgetting / learnt.forgetting for distilled, learnt in pairs]
    assert max(found) <= 0.5, found


@pytest.mark.parametrize(
    ("bed", "name"),
    [(bed, name) for bed in BEDS for name in LARGEST_WAY if bed != "policy_flow" or name not in ("l2", "slca")],
)
def test_it_stays_nearer_to_the_old_weights(bed, name):
    ours, plain = runs(bed, name), runs(bed, "sequential")
    found = [run.way / other.way for run, other in zip(ours, plain, strict=True)]
    assert max(found) <= LARGEST_WAY[name], found
    assert_learnt(bed, ours)


@pytest.mark.parametrize("bed", BEDS)
def test_l2_sp_stays_nearer_to_the_warm_start(bed):
    found = [
        run.from_start / other.from_start
        for run, other in zip(runs(bed, "l2_sp"), runs(bed, "sequential"), strict=True)
    ]
    assert max(found) <= 0.5, found


@pytest.mark.parametrize("bed", [bed for bed in BEDS if bed != "policy_flow"])
def test_mofo_learns_new_tasks_as_well_though_it_moves_less(bed):
    ours, plain = runs(bed, "mofo"), runs(bed, "sequential")
    for run, other in zip(ours, plain, strict=True):
        assert run.of_new_tasks <= other.of_new_tasks + 0.05 * other.before_new_tasks

"""PackNet on LeRobot's ACT, diffusion policy and VQ-BeT: old tasks act to the bit as they were learnt."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tiny_model import experience
from tiny_policies import ACTION, CAMERAS, FIELDS, SIDE, STATE

from vla_cl.methods.packnet import PackNet
from vla_cl.models.vla import VlaModel, horizon, policy_config
from vla_cl.testbeds.bed import Tensors
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import InterfaceSpec, Observation

SPEC = InterfaceSpec({CAMERAS[0]: (SIDE, SIDE)}, STATE, ACTION)
SETTINGS = TrainingSettings(steps=5, batch_size=4, learning_rate=1e-3)
CHANGED = {
    "act": set(),  # its ResNet's statistics are frozen
    "diffusion": {"rgb_encoder"},  # batch normalisation, in the first task only
    "vqbet": {"vqvae_model"},  # the codebook, into the second task; pictures are looked at behind it
}


def tiny_model(kind, seed=0):
    codes = {"n_vqvae_training_steps": 7} if kind == "vqbet" else {}  # learnt into the second task
    config = policy_config(kind, FIELDS[kind] | codes, SPEC, "cpu")
    unit = {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0}
    sizes = {"observation.state": STATE, "action": ACTION}
    statistics = {
        key: {name: np.full(size, value, np.float32) for name, value in unit.items()} for key, size in sizes.items()
    }
    return VlaModel.new(config, statistics, init_seed=seed)


def data_of(model, task):
    generator = torch.Generator().manual_seed(task)
    rows, steps, config = 8, len(model.policy.config.action_delta_indices), model.policy.config
    window = () if horizon(config).observations is None else (1,)
    return Tensors({
        CAMERAS[0]: torch.randint(256, (rows, *window, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
        "observation.state": torch.randn(rows, *window, STATE, generator=generator),
        "action": torch.rand(rows, steps, ACTION, generator=generator) * 2 - 1,
        "action_is_pad": torch.zeros(rows, steps, dtype=torch.bool),
        "task": ["do it"] * rows,
    })  # fmt: skip


def learnt(model, method, task):
    for _ in Learning(model, method, experience(task), data_of(model, task), SETTINGS, 5, task * SETTINGS.steps):
        pass


def actions(model, method, task):
    method.select_task(experience(task).tasks[0])
    picture = np.random.default_rng(task).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    found = model.act([Observation({CAMERAS[0]: picture}, np.full(STATE, 0.3, np.float32), "do it")])
    method.select_task(None)
    return found


@pytest.mark.parametrize("kind", CHANGED)
def test_old_tasks_act_to_the_bit_as_they_were_learnt_after_a_resume_too(kind):
    model, method = tiny_model(kind), PackNet(prune_share=0.5)
    method.attach(model, 5)
    noted = []
    for task in range(3):
        learnt(model, method, task)
        noted.append(actions(model, method, task))
        for old in range(task + 1):
            assert np.array_equal(actions(model, method, old), noted[old]), (task, old)
        if task == 1:
            state, extra = load(save(method.state_dict())), json.loads(json.dumps(method.extra_state()))
            saved = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    assert not np.array_equal(noted[0], noted[1])
    kept = {key for key in method.state_dict() if key.startswith("buffer.")}
    assert {part for part in ("rgb_encoder", "vqvae_model") if any(part in key for key in kept)} == CHANGED[kind]

    again, other = tiny_model(kind, seed=9), PackNet(prune_share=0.5)
    again.module.load_state_dict(saved)
    other.attach(again, 5)
    other.load_state_dict(state, extra, iter([]))
    for task in range(2):
        assert np.array_equal(actions(again, other, task), noted[task])
    learnt(again, other, 2)
    for task in range(3):
        assert np.array_equal(actions(again, other, task), noted[task])


@pytest.mark.parametrize("stop", [3, 6])
@pytest.mark.parametrize("kind", CHANGED)
def test_a_policy_continues_within_a_task_with_what_it_counts_beside_its_weights(kind, stop):
    """VQ-BeT's codes learn for seven steps, which it counts in a plain number."""

    def begun():
        model, method = tiny_model(kind), PackNet()
        method.attach(model, 5)
        settings = TrainingSettings(steps=9, batch_size=4, learning_rate=1e-3)
        return model, Learning(model, method, experience(0), data_of(model, 0), settings, 5)

    model, whole = begun()
    for report in whole:
        if report.step == stop:
            weights, state = (load(save(copies(part.state_dict()))) for part in (model.module, whole))
    again, rest = begun()
    rest.continue_at(stop, weights, state)
    list(rest)
    ours, theirs = model.module.state_dict(), again.module.state_dict()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def copies(tensors):
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}

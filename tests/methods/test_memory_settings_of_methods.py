"""A method's memory may be described in full, in place of a number of samples."""

import copy
from pathlib import Path

import numpy as np
import pytest
from keyed_model import KeyedModel
from regression_model import RegressionModel
from tiny_model import TinyData, TinyModel, experience

from vla_cl.config.compose import build, compose
from vla_cl.interfaces import Method
from vla_cl.methods.agem import AveragedGradientEpisodicMemory
from vla_cl.methods.cama import ConfidenceAwareMovingAverage
from vla_cl.methods.der import DarkExperienceReplay
from vla_cl.methods.er import ExperienceReplay
from vla_cl.methods.gem import GradientEpisodicMemory
from vla_cl.methods.mir import MaximallyInterferedRetrieval
from vla_cl.types import ConfigurationError, Draw

CONF = Path(__file__).parents[2] / "conf" / "method"
KINDS = (ExperienceReplay, MaximallyInterferedRetrieval, AveragedGradientEpisodicMemory, GradientEpisodicMemory)
DARK = (DarkExperienceReplay, ConfidenceAwareMovingAverage)


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_in_bytes_is_kept_over_tasks(kind):
    method = kind(memory={"budget": 200, "selection": "herding", "unit": "frame"})
    method.attach(TinyModel(), 0)
    for index in range(3):
        method.end_task(experience(index), TinyData(seed=index))
        assert 0 < method.memory_bytes() <= 200
    kept = method.memory.everything()
    assert np.unique(kept[:, 0]).tolist() == [0, 1, 2]


REMEMBERING = [path.stem for path in sorted(CONF.glob("*.yaml")) if "selection:" in path.read_text()]


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_memory_without_a_selection_has_the_methods(name):
    for selection in ("first", "uniform"):
        given = [f"method={name}", f"method.selection={selection}"]
        method = build(compose([*given, "method.memory={samples_per_task: 10}"])["method"], Method)
        assert method.memory.settings.selection == selection
        method = build(compose([*given, "method.memory={samples_per_task: 10, selection: herding}"])["method"], Method)
        assert method.memory.settings.selection == "herding"


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_setting_is_answered_with_the_nearest(kind):
    with pytest.raises(ConfigurationError, match=r"'budgte'.*budget"):
        kind(memory={"budgte": 200})


@pytest.mark.parametrize("kind", DARK)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_budget_holds_the_stored_outputs_too(kind, precision):
    method = kind(memory={"budget": 500}, draws_per_sample=2, precision=precision)
    method.attach(KeyedModel(), 0)
    datas = [TinyData(seed=seed) for seed in range(4)]
    for index in range(3):
        method.end_task(experience(index), datas[index])
        raw = TinyData.bytes_per_sample * len(method.memory)
        assert method.memory_bytes() == raw + method.stored.bytes
        per_sample = method.memory_bytes() // len(method.memory)
        assert 500 - per_sample * (index + 1) < method.memory_bytes() <= 500
    state, extra = method.state_dict(), copy.deepcopy(method.extra_state())
    other = kind(memory={"budget": 500}, draws_per_sample=2, precision=precision)
    other.attach(copy.deepcopy(method.model), 0)
    other.load_state_dict(state, extra, iter([(experience(i), datas[i]) for i in range(3)]))
    assert other.memory_bytes() == method.memory_bytes()
    for each in (method, other):
        each.end_task(experience(3), datas[3])
    assert other.extra_state() == method.extra_state()


def test_no_more_outputs_are_computed_than_about_fit():
    method = DarkExperienceReplay(memory={"budget": 400})
    method.attach(KeyedModel(), 0)
    forward_pass, seen = method.model.forward_pass, []
    method.model.forward_pass = lambda batch, draw: (seen.append(len(batch["task"])), forward_pass(batch, draw))[1]
    method.end_task(experience(0), TinyData())
    assert seen == [1, 400 // 36]  # 20 bytes of a sample, 16 of its output and seed


@pytest.mark.parametrize("kind", [*KINDS, *DARK])
def test_features_are_refused_before_anything_is_learnt(kind):
    memory = {"samples_per_task": 3, "keep": "copy", "encoding": "features"}
    with pytest.raises(ConfigurationError, match="no model here learns from features"):
        kind(memory=memory)
    if kind is not GradientEpisodicMemory:
        assert kind(memory=memory, share=0.0).memory.settings.encoding == "features"  # only measured


@pytest.mark.parametrize("kind", DARK)
def test_an_exported_memory_has_no_outputs(kind):
    memory = {"samples_per_task": 3, "reuse": "anywhere"}
    with pytest.raises(ConfigurationError, match=r"reuse.*method\.alpha=0"):
        kind(memory=memory)
    assert kind(memory=memory, alpha=0.0).memory.settings.reuse == "anywhere"


def test_gem_learns_from_another_runs_memory():
    model, method = RegressionModel(), GradientEpisodicMemory(samples_per_task=6, batch_size=4, margin=0.0)
    method.attach(model, 0)
    method.memory.adopt("earlier", -1, TinyData(seed=1))
    batch = TinyData(seed=1).batch(np.arange(4))
    batch["y"] = -batch["y"]
    model.loss(batch, Draw(0)).mean().backward()
    before = model.module[0].weight.grad.clone()
    method.compose(batch, 0)
    method.edit_gradients()
    assert not np.allclose(model.module[0].weight.grad, before)

"""What README and docs show must work."""

import re
import shlex
from pathlib import Path

import numpy as np
import torch
from tiny_model import TinyData, TinyModel, experience

from vla_cl.config.compose import compose
from vla_cl.run import checkpoint
from vla_cl.settings.seeds import of_each_seed
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import Draw

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PLUGINS = (ROOT / "docs" / "plugins.md").read_text()


def attached(model):
    """The method of docs/plugins.md, that has met a model."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", PLUGINS, re.DOTALL) if "class Anchored" in block)
    namespace = {}
    exec(code, namespace)
    method = namespace["Anchored"](strength=0.5)
    method.attach(model, 0)
    return method


def learn_task(model, method, task):
    for _ in Learning(model, method, experience(task), TinyData(seed=task), TrainingSettings(8, 4), 0, 8 * task):
        pass


def test_the_example_of_a_method_is_a_method():
    model, data = TinyModel(), TinyData()
    method = attached(model)
    method.end_task(experience(), data)
    with torch.no_grad():
        model.module.weight += 1
    model.loss(data.batch(np.arange(4)), Draw(0)).mean().backward()
    before = model.module.weight.grad.clone()
    method.edit_gradients()
    assert torch.allclose(model.module.weight.grad - before, torch.full((2, 3), 0.5))


def test_the_example_of_a_method_survives_a_resume_bit_for_bit(tmp_path):
    undisturbed = TinyModel()
    method = attached(undisturbed)
    learn_task(undisturbed, method, 0)
    checkpoint.save(tmp_path, undisturbed, method, checkpoint.Progress(1, 8, 0.0, 0.0))
    resumed = TinyModel(seed=1)
    resumed.module.load_state_dict(undisturbed.module.state_dict())
    again = attached(resumed)
    checkpoint.load_method(tmp_path / "001", again, iter([]))
    assert again.memory_bytes() == method.memory_bytes() == 4 * (6 + 2)
    for model, its_method in ((undisturbed, method), (resumed, again)):
        learn_task(model, its_method, 1)
    assert torch.equal(undisturbed.module.weight, resumed.module.weight)
    assert torch.equal(undisturbed.module.bias, resumed.module.bias)


def test_the_settings_shown_compose():
    lines = [line for line in re.findall(r"\$ vla-cl (?:train|collect) ([^#\n]*)", README) if "--conf" not in line]
    assert lines
    for line in lines:
        assert all(compose(overrides) for overrides in of_each_seed(shlex.split(line)))

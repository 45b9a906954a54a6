"""What the README shows must work."""

import re
import shlex
from pathlib import Path

import numpy as np
import torch
from tiny_model import TinyData, TinyModel, experience

from vla_cl.config.compose import compose
from vla_cl.run import checkpoint
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import Draw

README = (Path(__file__).parents[1] / "README.md").read_text()


def attached(model):
    """The method of the README, that has met a model."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Anchored" in block)
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
    for line in re.findall(r"\$ vla-cl (?:train|collect) ([^#\n]*)", README):
        assert compose(shlex.split(line))


def test_every_path_in_the_map_exists():
    root = Path(__file__).parents[1]
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / link).exists(), link

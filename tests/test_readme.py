"""What the README shows must work."""

import re
import shlex
from pathlib import Path

import numpy as np
import torch
from tiny_model import TinyData, TinyModel, experience

from vla_cl.compose import compose
from vla_cl.interfaces import Method
from vla_cl.types import Draw

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_of_a_method_is_a_method():
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Anchored" in block)
    namespace = {"Method": Method}
    exec(code, namespace)
    method, model, data = namespace["Anchored"](strength=0.5), TinyModel(), TinyData()
    method.attach(model, 0)
    method.end_task(experience(), data)
    with torch.no_grad():
        model.module.weight += 1
    model.loss(data.batch(np.arange(4)), Draw(0)).mean().backward()
    before = model.module.weight.grad.clone()
    method.edit_gradients()
    assert torch.allclose(model.module.weight.grad - before, torch.full((2, 3), 0.5))


def test_the_settings_shown_compose():
    for line in re.findall(r"\$ vla-cl (?:train|collect) ([^#\n]*)", README):
        assert compose(shlex.split(line))


def test_every_path_in_the_map_exists():
    root = Path(__file__).parents[1]
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / link).exists(), link

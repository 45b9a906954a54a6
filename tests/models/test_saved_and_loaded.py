"""What was saved and loaded gives the same bits: losses, outputs, features, gradients, samples and actions."""

import numpy as np
import pytest
import torch

from vla_cl.interfaces import Distillable, Generator, Method
from vla_cl.models.diffusion import DiffusionModel
from vla_cl.models.llm import LanguageModel
from vla_cl.models.vla import VlaModel
from vla_cl.testbeds import BEDS
from vla_cl.training.learning import Learning
from vla_cl.types import Draw, Observation

LOAD = {
    "policy_regression": lambda folder, model: VlaModel.load(folder, "cpu"),
    "policy_flow": lambda folder, model: VlaModel.load(folder, "cpu"),
    "language": lambda folder, model: LanguageModel.load(
        folder, language_weight=model.language_weight, max_new_tokens=model.max_new_tokens
    ),
    "diffusion": lambda folder, model: DiffusionModel.load(
        folder, model.class_names, inference_steps=model.inference_steps
    ),
}


def gradients(model, batch):
    loss = model.loss(batch, Draw(3)).mean()
    weights = [p for p in model.module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return [loss, *(gradient for gradient in found if gradient is not None)]


def answers(model, bed):
    """All that a model of this bed can be asked."""
    batch = bed.data[1].batch(np.arange(6))
    model.module.train()
    found = [model.loss(batch, Draw(1)), model.features(batch), *gradients(model, batch)]
    if isinstance(model, Distillable):
        found.append(model.outputs(batch, Draw(2)))
    if isinstance(model, Generator):
        made = model.generate(batch["task"][:3], seed=5)
        found += [value for value in made.values() if isinstance(value, torch.Tensor)]
    if isinstance(model, VlaModel):
        seen = {key: batch[key][0].permute(1, 2, 0).numpy() for key in model.spec.cameras}
        state = batch["observation.state"][0].numpy() if model.spec.state_size else np.zeros(0, np.float32)
        found.append(torch.from_numpy(model.act([Observation(seen, state, batch["task"][0])])))
    return found


@pytest.mark.parametrize("name", BEDS)
def test_a_model_that_was_saved_and_loaded_gives_the_same_bits(name, tmp_path):
    bed = BEDS[name]()
    model = bed.make_model(1)
    for _ in Learning(model, plain(model), bed.stream.experiences[0], bed.data[0], bed.tiny, 1):
        pass
    model.save(tmp_path / "model")
    again = LOAD[name](tmp_path / "model", model)
    for ours, theirs in zip(answers(model, bed), answers(again, bed), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def plain(model):
    method = Method()
    method.attach(model, 1)
    return method


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_language_model_keeps_its_attention_and_its_precision(attention, dtype, tmp_path):
    from transformers import AutoModelForCausalLM

    bed = BEDS["language"]()
    model = bed.make_model(0)
    model.save(tmp_path / "first")
    model.model = AutoModelForCausalLM.from_pretrained(tmp_path / "first", dtype=dtype, attn_implementation=attention)
    model.save(tmp_path / "model")
    batch = bed.data[0].batch(np.arange(4))
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for loaded in (stock, LanguageModel.load(tmp_path / "model").model):
        assert loaded.config._attn_implementation == attention
        assert loaded.dtype == dtype
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).logits, model.model(**inputs).logits)

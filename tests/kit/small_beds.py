"""The test beds made small: few samples, and models that do a step in a few milliseconds.

They have every kind of part that the beds have (layers, heads, normalization), only less of each: what a method must
keep to the bit, it must keep on them too. They are too small to learn anything.
"""

import dataclasses

import numpy as np
import torch

from vla_cl.random_numbers import Purpose, number
from vla_cl.testbeds import BEDS
from vla_cl.testbeds.bed import Tensors
from vla_cl.types import InterfaceSpec

BATCH, STEPS, ROWS = 4, 6, 22
"""Of a task. The sixth batch is in another epoch; three episodes."""


def small_bed(name, steps=STEPS):
    """The bed of this name with a small model; the first samples of each task are kept.

    A method that looks at all of a task (Fisher information, caches) takes no time.
    """
    bed = bed_of_few_samples(name, ROWS)
    tiny = dataclasses.replace(bed.tiny, steps=steps, batch_size=BATCH)
    return dataclasses.replace(bed, make_model=MODELS[name], tiny=tiny)


def bed_of_few_samples(name, rows=44):
    """The bed with its own model, for tests that depend on how large that is."""
    bed = BEDS[name]()
    few = [Tensors({key: column[:rows] for key, column in data.samples.items()}) for data in bed.data]
    return dataclasses.replace(bed, data=few)


def _policy(objective):
    from vla_cl.models.vla import VlaModel, policy_config

    network = {"image_size": 16, "chunk_size": 4, "n_action_steps": 4, "vision_channels": [8, 8, 8], "num_keypoints": 2,
               "condition_size": 8, "hidden_size": 16, "max_instruction_bytes": 24, "mixed_precision": False,
               "shift_pixels": 0, "state_noise": 0, "brightness": 0, "contrast": 0, "color": 0, "shade": 0}  # fmt: skip
    config = policy_config(
        "nano_vla", {**network, "objective": objective}, InterfaceSpec({"observation.image": (16, 16)}, 2, 2), "cpu"
    )
    one = np.ones(2, dtype=np.float32)
    unit = {"mean": 0 * one, "std": one, "min": -one, "max": one}
    return lambda seed: VlaModel.new(config, {"observation.state": unit, "action": unit}, init_seed=seed)


def _language(seed):
    from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

    from vla_cl.models.llm import LanguageModel

    tokenizer = ByT5Tokenizer(extra_ids=0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    return LanguageModel(_seeded(seed, LlamaForCausalLM, config), tokenizer, language_weight=0.25, max_new_tokens=4)


def _diffusion(seed):
    from diffusers import DDPMScheduler, UNet2DModel

    from vla_cl.models.diffusion import DiffusionModel

    network = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8,),
               "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 2,
               "num_class_embeds": 10, "add_attention": False}  # fmt: skip
    names = [str(digit) for digit in range(10)]
    scheduler = DDPMScheduler(num_train_timesteps=100)
    return DiffusionModel(_seeded(seed, UNet2DModel, **network), scheduler, names, inference_steps=2)


def _seeded(seed, kind, *arguments, **named):
    """A network whose initial weights are drawn from this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number(seed, Purpose.INITIAL_WEIGHTS))
        return kind(*arguments, **named)


MODELS = {
    "policy_regression": lambda seed: _policy("regression")(seed),
    "policy_flow": lambda seed: _policy("flow_matching")(seed),
    "language": _language,
    "diffusion": _diffusion,
}
"""Name of a bed to a function from a seed to its small model."""

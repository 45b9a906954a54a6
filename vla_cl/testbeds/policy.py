"""NanoVLA on three tasks that look alike: dots on a picture, and only the instruction says where to go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vla_cl.interfaces import Model
from vla_cl.random_numbers import Purpose, number
from vla_cl.testbeds.bed import LOSS, Bed, Tensors, held_out_loss, three_tasks
from vla_cl.training.learning import TrainingSettings
from vla_cl.types import Batch, InterfaceSpec

INSTRUCTIONS = ("go to the red dot", "go to the green dot", "flee from the red dot")
PIXELS, CHUNK, SIZE = 16, 4, 2
_ROWS, _HELD_OUT = 256, 64
_NETWORK = {
    "image_size": PIXELS,
    "chunk_size": CHUNK,
    "n_action_steps": CHUNK,
    "vision_channels": [16, 16, 16],
    "num_keypoints": 8,
    "condition_size": 32,
    "hidden_size": 64,
    "max_instruction_bytes": 24,
    "mixed_precision": False,
}
_NOT_AUGMENTED = dict.fromkeys(("state_noise", "shift_pixels", "brightness", "contrast", "color", "shade"), 0)


def policy_bed(objective: str) -> Bed:
    """Pictures of 16 pixels with a red and a green dot.

    Args:
        objective: NanoVLA's, ``regression`` or ``flow_matching``.
    """
    samples = [_samples(task, _ROWS + _HELD_OUT) for task in range(len(INSTRUCTIONS))]
    return Bed(
        name=f"policy_{'flow' if objective == 'flow_matching' else objective}",
        make_model=lambda seed: _model(objective, seed),
        load_model=_load,
        stream=three_tasks("dots", INSTRUCTIONS),
        data=[Tensors({key: value[:_ROWS] for key, value in columns.items()}) for columns in samples],
        held_out=[{key: value[_ROWS:] for key, value in columns.items()} for columns in samples],
        training=TrainingSettings(steps=200, batch_size=32, learning_rate=3e-3),
        tiny=TrainingSettings(steps=6, batch_size=8, learning_rate=1e-3),
        scores=[(LOSS, held_out_loss)],
    )


def _model(objective: str, seed: int) -> Model:
    from vla_cl.models.vla import VlaModel, policy_config

    spec = InterfaceSpec({"observation.image": (PIXELS, PIXELS)}, SIZE, SIZE)
    config = policy_config("nano_vla", {**_NETWORK, **_NOT_AUGMENTED, "objective": objective}, spec, "cpu")
    one = np.ones(SIZE, dtype=np.float32)
    unit = {"mean": 0 * one, "std": one, "min": -one, "max": one}
    return VlaModel.new(config, {"observation.state": unit, "action": unit}, init_seed=seed)


def _load(folder: Path) -> Model:
    from vla_cl.models.vla import VlaModel

    return VlaModel.load(folder, "cpu")


def _samples(task: int, count: int) -> Batch:
    """Dots at random places in -0.8..0.8; the action of every step is the way to go."""
    generator = torch.Generator().manual_seed(number(task, Purpose.TEST_BED))
    red, green = (torch.rand(count, 2, generator=generator) * 1.6 - 0.8 for _ in range(2))
    goal = (red, green, -red)[task]
    return {
        "observation.image": _drawn(red, green),
        "observation.state": torch.randn(count, SIZE, generator=generator),
        "action": goal[:, None].expand(count, CHUNK, SIZE).contiguous(),
        "action_is_pad": torch.zeros(count, CHUNK, dtype=torch.bool),
        "task": [INSTRUCTIONS[task]] * count,
    }


def _drawn(red: Tensor, green: Tensor) -> Tensor:
    """Pictures uint8 (B, 3, PIXELS, PIXELS) with two soft dots."""
    axis = torch.linspace(-1, 1, PIXELS)
    pictures = torch.zeros(len(red), 3, PIXELS, PIXELS)
    for channel, places in enumerate((red, green)):
        distance = (axis[None, :, None] - places[:, 1, None, None]).square()
        distance = distance + (axis[None, None, :] - places[:, 0, None, None]).square()
        pictures[:, channel] = torch.exp(-distance / 0.05)
    return (255 * pictures).to(torch.uint8)

"""A small UNet on scikit-learn's handwritten digits, three classes at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vla_cl.interfaces import Model
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.testbeds.bed import LOSS, Bed, Tensors, held_out_loss, three_tasks
from vla_cl.training.learning import TrainingSettings
from vla_cl.types import Batch, ConfigurationError

CLASSES = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
_HELD_OUT, _INFERENCE_STEPS = 96, 10
_NAMES = [str(digit) for digit in range(10)]


def diffusion_bed() -> Bed:
    """Pictures of 8 x 8 pixels in -1..1; a task is three of the ten digits.

    Raises:
        ConfigurationError: scikit-learn, which brings the pictures, is not installed.
    """
    samples = [_samples(classes) for classes in CLASSES]
    return Bed(
        name="diffusion",
        make_model=_model,
        load_model=_load,
        stream=three_tasks("digits", [f"draw {', '.join(map(str, classes))}" for classes in CLASSES]),
        data=[Tensors({key: value[:-_HELD_OUT] for key, value in columns.items()}) for columns in samples],
        held_out=[{key: value[-_HELD_OUT:] for key, value in columns.items()} for columns in samples],
        training=TrainingSettings(steps=150, batch_size=32, learning_rate=3e-3),
        tiny=TrainingSettings(steps=6, batch_size=8, learning_rate=1e-3),
        scores=[(LOSS, held_out_loss)],
    )


def _model(seed: int) -> Model:
    from diffusers import DDPMScheduler, UNet2DModel

    from vla_cl.models.diffusion import DiffusionModel

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number(seed, Purpose.INITIAL_WEIGHTS))
        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=10,
        )
    return DiffusionModel(unet, DDPMScheduler(num_train_timesteps=100), _NAMES, inference_steps=_INFERENCE_STEPS)


def _load(folder: Path) -> Model:
    from vla_cl.models.diffusion import DiffusionModel

    return DiffusionModel.load(folder, _NAMES, inference_steps=_INFERENCE_STEPS)


def _samples(classes: tuple[int, ...]) -> Batch:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigurationError(
            "the diffusion test bed draws scikit-learn's digits; pip install scikit-learn"
        ) from error
    digits = load_digits()
    rows = np.flatnonzero(np.isin(digits.target, classes))
    rows = generator(classes[0], Purpose.TEST_BED).permutation(rows)
    labels = digits.target[rows]
    images = torch.from_numpy(digits.images[rows].astype(np.float32) / 8 - 1)[:, None]
    return {
        "image": images,
        "label": torch.from_numpy(labels.astype(np.int64)),
        "task": [str(label) for label in labels],
    }

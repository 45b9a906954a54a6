"""A small ACT checkpoint in LeRobot's format, the same at every run, for both sides of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_cl.types import InterfaceSpec

CHUNK_SIZE = 50
_SEED = 0
_FIELDS = {
    "chunk_size": CHUNK_SIZE,
    "n_action_steps": CHUNK_SIZE,
    "dim_model": 64,
    "n_heads": 2,
    "dim_feedforward": 64,
    "n_encoder_layers": 1,
    "n_decoder_layers": 1,
    "use_vae": False,
    "pretrained_backbone_weights": None,
}


def save_small_act(
    folder: Path, spec: InterfaceSpec, mean_action: Sequence[float], spread: float, seen_size: int | None = None
) -> Path:
    """Write a checkpoint with fresh weights; nothing is trained.

    Args:
        folder: Filled with what LeRobot loads.
        spec: The suite's.
        mean_action: What the policy does on average (A,); what it sees and its weights decide the rest.
        spread: Standard deviation of the normalised actions, in the suite's units.
        seen_size: Height and width to which the checkpoint's own processor shrinks the pictures, so that the network
            costs little; None leaves them as they are.
    """
    from lerobot.processor.hil_processor import ImageCropResizeProcessorStep

    from vla_cl.models.vla import VlaModel, policy_config

    config = policy_config("act", _FIELDS, spec, "cpu")
    model = VlaModel.new(config, _statistics(spec, mean_action, spread), init_seed=_SEED)
    if seen_size is not None:
        steps = list(model.preprocessor.steps)
        steps.insert(len(steps) - 1, ImageCropResizeProcessorStep(resize_size=(seen_size, seen_size)))
        model.preprocessor.steps = steps
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    return folder


def _statistics(
    spec: InterfaceSpec, mean_action: Sequence[float], spread: float
) -> dict[str, dict[str, NDArray[np.float32]]]:
    mean = np.asarray(mean_action, dtype=np.float32)
    state = np.zeros(spec.state_size, dtype=np.float32)
    half = np.full((3, 1, 1), 0.5, dtype=np.float32)
    pictures = {key: _around(half, 0.25) for key in spec.cameras}
    return {"action": _around(mean, spread), "observation.state": _around(state, 1.0), **pictures}


def _around(mean: NDArray[np.float32], spread: float) -> dict[str, NDArray[np.float32]]:
    width = np.full_like(mean, spread)
    return {"mean": mean, "std": width, "min": mean - width, "max": mean + width}

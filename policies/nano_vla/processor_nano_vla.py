"""What happens to observations before NanoVLA and to actions after it, as LeRobot pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors
from lerobot.utils.constants import OBS_STATE

if TYPE_CHECKING:
    from torch import Tensor

    from vla_cl.policies.nano_vla.configuration_nano_vla import NanoVLAConfig

SMALLEST_STATE_DEVIATION = 0.01
"""Floor of the state's standard deviations. A joint that rests in one task and moves in the next has a deviation of
almost zero in the first one's statistics; dividing by it would turn the movement into enormous numbers."""


def make_nano_vla_pre_post_processors(
    config: NanoVLAConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Build the pipelines that LeRobot looks for by this name.

    Before the policy: rename, add a batch dimension, move to the device, normalise state and action. After it: undo the
    action's normalisation, move to the CPU. Images pass untouched, and the instruction passes as ``task``.

    Args:
        config: The policy's configuration.
        dataset_stats: Feature key to its statistics (``mean``, ``std``, ``min``, ``max``); None: nothing is normalised.

    Returns:
        The pre-processor and the post-processor.
    """
    stats = None if dataset_stats is None else floor_state_deviation(dataset_stats)
    before, after = make_default_pre_post_processors(config, stats, normalizer_device=config.device)
    return before, after


def floor_state_deviation(stats: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the statistics with the state's standard deviations raised to at least `SMALLEST_STATE_DEVIATION`."""
    if "std" not in stats.get(OBS_STATE, {}):
        return stats
    deviation: Tensor = torch.as_tensor(stats[OBS_STATE]["std"]).clamp(min=SMALLEST_STATE_DEVIATION)
    return {**stats, OBS_STATE: {**stats[OBS_STATE], "std": deviation}}

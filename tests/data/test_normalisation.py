"""Frozen statistics in every mode that LeRobot normalises by."""

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from odd_datasets import make_dataset

from vla_cl.data.frames import Frames
from vla_cl.data.normalisation import SPREAD_FLOOR, frozen_statistics
from vla_cl.data.source import Source

MODES = list(NormalizationMode)
LARGEST = 2 / SPREAD_FLOOR + 2
"""What a movement as large as the largest of the first task becomes at most."""

RESTING = {
    "closed at 0": lambda episode, step: 0.0,
    "open at 1": lambda episode, step: 1.0,
    "nearly at rest": lambda episode, step: 1e-7 * np.sin(step),
    "moves once": lambda episode, step: float(episode == 0 and step == 3),
    "moves in a tenth of the frames": lambda episode, step: float(step % 10 == 9),
    "far from zero": lambda episode, step: 3000.0,
}


def normalised(statistics, key, mode, values):
    """Values by LeRobot's own step, and back."""
    kind = FeatureType.ACTION if key == "action" else FeatureType.STATE
    features = {key: PolicyFeature(type=kind, shape=(values.shape[-1],))}
    there = NormalizerProcessorStep(features=features, norm_map={kind: mode}, stats=statistics)
    back = UnnormalizerProcessorStep(features=features, norm_map={kind: mode}, stats=statistics)
    scaled = there._apply_transform(torch.as_tensor(values), key, kind)
    return scaled.numpy(), back._apply_transform(scaled, key, kind, inverse=True).numpy()


def statistics_of(root, cache, resting, others=lambda episode, step: [np.sin(step), np.cos(step + episode)]):
    def vector(episode, step):
        return [*others(episode, step), resting(episode, step)]

    size = len(vector(0, 0))
    make_dataset(root, [("first", 20)] * 2, state=size, action=size, state_of=vector, action_of=vector,
                 cameras={"observation.image": (16, 16)})  # fmt: skip
    return frozen_statistics(Frames([Source(root)], cache, [0]))


@pytest.mark.parametrize("resting", RESTING)
def test_what_rested_in_the_first_task_may_move_in_the_second(tmp_path, resting):
    rest = RESTING[resting]
    statistics = statistics_of(tmp_path / "d", tmp_path, rest)
    here = rest(1, 0)
    second = np.array([[1.0, -1.0, here + move] for move in (-1, -0.5, 0, 0.5, 1)], np.float32)
    for key in ("observation.state", "action"):
        for mode in MODES:
            scaled, back = normalised(statistics, key, mode, second)
            if mode is not NormalizationMode.IDENTITY:
                assert np.abs(scaled).max() <= LARGEST, (key, mode, scaled)
            assert np.allclose(back, second, atol=1e-3), (key, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", [0.0, 1.0, -40.0])
def test_a_first_task_in_which_nothing_moves(tmp_path, mode, at):
    statistics = statistics_of(tmp_path / "d", tmp_path, lambda episode, step: at, lambda episode, step: [at, at])
    second = np.array([[at + 1, at - 1, at + 0.5]], np.float32)
    scaled, _ = normalised(statistics, "action", mode, second)
    assert np.isfinite(scaled).all()
    if mode is not NormalizationMode.IDENTITY:
        assert np.abs(scaled).max() <= LARGEST


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(12))
def test_any_mixture_of_scales_offsets_and_rests_stays_finite(mode, seed):
    """A table of random tasks: what moves as far as the dimension that moved most stays of order 1 over the floor."""
    from vla_cl.data.normalisation import _describe

    random = np.random.default_rng(seed)
    size, frames = int(random.integers(1, 9)), int(random.integers(2, 300))
    scale = 10.0 ** random.uniform(-3, 3)
    offset = random.uniform(-1, 1, size) * scale * random.choice([0, 1, 100])
    moves = random.uniform(size=size) < 0.6
    first = (offset + scale * random.uniform(-1, 1, (frames, size)) * moves).astype(np.float32)
    statistics = {"action": _describe(first)}
    reach = float((first.max(0) - first.min(0)).max()) or 1.0
    second = (first[:1] + random.uniform(-1, 1, (50, size)) * reach).astype(np.float32)
    scaled, _ = normalised(statistics, "action", mode, second)
    assert np.isfinite(scaled).all()
    # quantiles may cut half of what few frames moved, so they get twice the bound
    if mode is not NormalizationMode.IDENTITY:
        assert np.abs(scaled).max() <= 4 * LARGEST


@pytest.mark.parametrize("mode", [NormalizationMode.QUANTILES, NormalizationMode.QUANTILE10])
def test_quantiles_of_what_moves_are_left_alone(mode):
    from vla_cl.data.normalisation import _describe

    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    found = _describe(values)
    for name, share in {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}.items():
        assert np.allclose(found[name], np.quantile(values, share, axis=0), atol=1e-6)

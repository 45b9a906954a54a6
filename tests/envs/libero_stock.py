"""What stock LeRobot shows and does: its ``LiberoEnv`` behind its environment processor, recorded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StockMoment:
    """What the policy sees after an env step (or the reset), and where the simulation stands."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    reward: float
    success: bool
    world: tuple[bytes, ...]


def world_of(model, data) -> tuple[bytes, ...]:
    """All that decides what happens next, and where fixtures stand."""
    arrays = (data.qpos, data.qvel, data.ctrl, data.qacc_warmstart, model.body_pos, model.body_quat)
    return tuple(np.array(array).tobytes() for array in arrays)


def record_stock_episodes(
    suite: str, task: int, seeds: Sequence[int], actions: np.ndarray, **options: object
) -> list[list[StockMoment]]:
    """Episodes one after another in one environment, as ``lerobot-eval`` runs them with one environment."""
    from lerobot.envs.libero import LiberoEnv, _get_suite

    environment = LiberoEnv(_get_suite(suite), task, suite, obs_type="pixels_agent_pos", **options)
    episodes = []
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        moments = [_moment(environment, observation, 0.0, False)]
        for action in actions:
            observation, reward, _, _, info = environment.step(action)
            moments.append(_moment(environment, observation, reward, bool(info["is_success"])))
        episodes.append(moments)
    environment.close()
    return episodes


def _moment(environment, observation, reward, success) -> StockMoment:
    from lerobot.envs.utils import preprocess_observation
    from lerobot.processor.env_processor import LiberoProcessorStep

    batch = {"pixels": _batched(observation["pixels"]), "robot_state": {}}
    batch["robot_state"] = {part: _batched(values) for part, values in observation["robot_state"].items()}
    seen = LiberoProcessorStep().observation(preprocess_observation(batch))
    images = {
        key: np.rint(value[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        for key, value in seen.items()
        if ".images." in key
    }
    simulation = environment._env.sim
    world = world_of(simulation.model._model, simulation.data._data)
    return StockMoment(images, seen["observation.state"][0].numpy(), reward, success, world)


def _batched(values):
    return {key: np.asarray(value)[None] for key, value in values.items()}

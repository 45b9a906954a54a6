"""What a stranger's package would hold: environments registered the LeRobot way. Worker processes import it."""

from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig, HubEnvConfig
from lerobot.processor import ObservationProcessorStep, PolicyProcessorPipeline

LENGTH = 12
built = []


class Slider(gym.Env):
    """A bar has to be slid to the side; two cameras. ``side`` 1 or -1 is the task."""

    metadata = {"render_fps": 20, "render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = gym.spaces.Box(-2, 2, (2,), np.float32)

    def __init__(self, side=1, render_mode="rgb_array", forgetful=False):
        self.side, self.render_mode, self.forgetful = side, render_mode, forgetful
        self.task_description = f"slide to {side}"
        self._max_episode_steps = LENGTH
        self.episodes = 0
        picture = gym.spaces.Box(0, 255, (10, 12, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict({"top": picture, "wrist": picture}),
                "agent_pos": gym.spaces.Box(-9, 9, (2,), np.float64),
            }
        )
        built.append(self)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-0.5, 0.5, 2) + (self.episodes if self.forgetful else 0)
        self.steps = 0
        self.episodes += 1
        return self._observation(), {"is_success": False}

    def step(self, action):
        self.steps += 1
        self.position = self.position + 0.25 * action
        success = bool(self.position[0] * self.side > 1)
        return self._observation(), float(self.position[0]), success, self.steps >= LENGTH, {"is_success": success}

    def render(self):
        picture = np.full((10, 12, 3), 40, np.uint8)
        column = int(np.clip((self.position[0] + 1) * 5, 0, 10))
        picture[:, column : column + 2] = 250
        return picture

    def _observation(self):
        pixels = {"top": self.render(), "wrist": 255 - self.render()}
        return {"pixels": pixels, "agent_pos": self.position.copy()}


gym.register("third_party/Slide-v0", entry_point=Slider)


def features():
    return {
        "action": PolicyFeature(FeatureType.ACTION, (2,)),
        "pixels/top": PolicyFeature(FeatureType.VISUAL, (10, 12, 3)),
        "pixels/wrist": PolicyFeature(FeatureType.VISUAL, (10, 12, 3)),
        "agent_pos": PolicyFeature(FeatureType.STATE, (2,)),
    }


FEATURES_MAP = {
    "action": "action",
    "pixels/top": "observation.images.top",
    "pixels/wrist": "observation.images.wrist",
    "agent_pos": "observation.state",
}


@EnvConfig.register_subclass("slider")
@dataclass
class SliderConfig(EnvConfig):
    """One environment, through ``gym.make``."""

    task: str | None = "Slide-v0"
    fps: int = 20
    side: int = 1
    forgetful: bool = False
    features: dict[str, PolicyFeature] = field(default_factory=features)
    features_map: dict[str, str] = field(default_factory=lambda: dict(FEATURES_MAP))

    @property
    def package_name(self):
        return "third_party"

    @property
    def gym_kwargs(self):
        return {"side": self.side, "forgetful": self.forgetful, "max_episode_steps": LENGTH}


class OnlyFirstStateEntry(ObservationProcessorStep):
    """Turns the top camera by 180 degrees and drops a part of the state, as LIBERO's own processor does."""

    def observation(self, observation):
        changed = dict(observation)
        changed["observation.images.top"] = observation["observation.images.top"].flip([2, 3])
        changed["observation.state"] = observation["observation.state"][:, :1]
        return changed

    def transform_features(self, features):
        return features


@EnvConfig.register_subclass("sliders")
@dataclass
class SlidersConfig(SliderConfig):
    """Three environments in two groups, and a processor of its own."""

    control_mode: str = "absolute"

    def create_envs(self, n_envs, use_async_envs=False):
        def vector(side):
            return gym.vector.SyncVectorEnv([lambda: Slider(side)] * n_envs)

        return {"right": {0: vector(1), 1: vector(1)}, "left": {0: vector(-1)}}

    def get_env_processors(self):
        return PolicyProcessorPipeline(steps=[OnlyFirstStateEntry()]), PolicyProcessorPipeline(steps=[])


@EnvConfig.register_subclass("remote")
@dataclass
class RemoteConfig(HubEnvConfig):
    """Would run downloaded code."""

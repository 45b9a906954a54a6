"""One environment of an ``EnvConfig``: how it is made, what a policy sees of it, what it is given."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.rendering import choose_gl_backend
from vla_cl.interfaces import Environment
from vla_cl.types import ConfigurationError, Observation, SuiteSpec, Task, Transition

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import SyncVectorEnv
    from lerobot.envs.configs import EnvConfig

STATE_KEY = "observation.state"
ACTION_KEY = "action"


@dataclass(frozen=True)
class World:
    """One of the environments that ``EnvConfig.create_envs`` gives, and what it said of itself."""

    group: str
    index: int
    task: Task


class GymEnvironment(Environment):
    """One environment, stepped directly: what LeRobot's vector of one would do, without its reset after the end."""

    def __init__(self, configuration: EnvConfig, spec: SuiteSpec, world: World, rebuild: bool) -> None:
        """Build it; see `LeRobotGym`.

        Raises:
            ConfigurationError: Its package is not installed, or its actions are not what the suite declares.
        """
        self._configuration = configuration
        self._rebuild = rebuild
        self._world = world
        self._task = world.task
        self._spec = spec
        self._processors = Processors(configuration, self._task.instruction)
        self._vector = self._make()
        self._used = False
        self._raw: Any = None
        self._seen: tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]] | None = None
        self._steps = 0

    def reset(self, initial_state: int) -> None:
        """Start from ``reset(seed=initial_state)``."""
        from lerobot.envs.utils import NEW_ROLLOUT_OPTION

        if self._rebuild and self._used:
            self._vector.close()
            self._vector = self._make()
        self._used = True
        self._raw, _ = self._gym.reset(seed=initial_state, options={NEW_ROLLOUT_OPTION: True})
        self._seen = None
        self._steps = 0

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Execute one action, shape (A,), in the units of the environment's dataset.

        Raises:
            RuntimeError: The environment was never reset.
        """
        self._require_reset()
        self._raw, reward, terminated, truncated, info = self._gym.step(self._processors.action(action))
        self._seen = None
        self._steps += 1
        success = _is_success(info)
        over = bool(terminated or truncated) or self._steps >= self._task.max_steps
        return Transition(float(reward), success, ended=success or over)

    def observe(self) -> Observation:
        """The pictures that came with the last step, and the state."""
        images, state = self._observed()
        return Observation(images=images, state=state, instruction=self._task.instruction)

    def state(self) -> NDArray[np.float32]:
        """``observation.state``, float32 (S,); empty if there is none."""
        return self._observed()[1]

    def film(self) -> NDArray[np.uint8]:
        """What the environment's ``render`` gives.

        Raises:
            TypeError: That is no RGB picture.
        """
        picture = np.asarray(self._gym.render())
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise TypeError(
                f"{self._task.id}: render() gave {picture.dtype} {picture.shape}, not a uint8 (H, W, 3) picture; set "
                "fields.render_mode=rgb_array"
            )
        return picture.copy()

    def close(self) -> None:
        """Close the environment; a second call does nothing."""
        self._vector.close()

    @property
    def _gym(self) -> gymnasium.Env[Any, Any]:
        return self._vector.envs[0]

    def _make(self) -> SyncVectorEnv:
        made = make_vectors(self._configuration)
        vector = made.pop((self._world.group, self._world.index))
        for other in made.values():
            other.close()
        expected, came = (self._spec.action_size,), vector.single_action_space.shape
        if came != expected:
            vector.close()
            raise ConfigurationError(
                f"{self._task.id} takes actions of the shape {came}, its configuration declares {expected}; correct "
                "the EnvConfig's features"
            )
        return vector

    def _observed(self) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]]:
        if self._seen is None:
            self._require_reset()
            images, state = self._processors.observe(self._gym, self._raw)
            came = picture_sizes(images), len(state)
            declared = dict(self._spec.cameras), self._spec.state_size
            if came != declared:
                raise ConfigurationError(
                    f"{self._task.id} shows (cameras, state size) {came}, its configuration declares {declared}; set "
                    "its `fields` to what it shows, or `action_range` to null, and it is asked"
                )
            self._seen = images, state
        return self._seen

    def _require_reset(self) -> None:
        if not self._used:
            raise RuntimeError(f"{self._task.id}: call reset before anything else")


class Processors:
    """The way from an environment's observation to a policy's and back, step by step that of ``lerobot-eval``."""

    def __init__(self, configuration: EnvConfig, instruction: str = "") -> None:
        self._before, self._after = configuration.get_env_processors()
        self._instruction = instruction

    def observe(
        self, environment: gymnasium.Env[Any, Any], raw: object
    ) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]]:
        """Pictures, uint8 (H, W, 3), and the state, float32 (S,).

        LeRobot hands a policy floats from 0 to 1. Rounding them to 256 levels restores the environment's own bytes; a
        processor that gives levels in between (one that resizes, say) loses half a level.
        """
        import torch
        from gymnasium.vector.utils import concatenate, create_empty_array
        from lerobot.envs.utils import preprocess_observation

        if not isinstance(raw, dict):
            raise ConfigurationError(
                f"the environment's observation is a {type(raw).__name__}, but LeRobot needs a dictionary with "
                "`pixels` and `agent_pos`; choose fields.obs_type=pixels_agent_pos, or what this environment calls it"
            )
        space = environment.observation_space
        empty: Any = create_empty_array(space, n=1)
        batch: Any = concatenate(space, [raw], empty)
        observed = {**preprocess_observation(batch), "task": [self._instruction]}
        observed = self._before(observed)
        images = {
            key: value[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
            for key, value in observed.items()
            if re.fullmatch(r"observation\.image(s\..+)?", key)
        }
        state = observed.get(STATE_KEY, torch.zeros(1, 0))
        return images, np.asarray(state[0].float().numpy())

    def action(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the environment is given, float32 (A,)."""
        import torch

        processed = self._after({ACTION_KEY: torch.from_numpy(np.asarray(action, np.float32)[None])})
        result: NDArray[np.float32] = processed[ACTION_KEY].numpy()[0]
        return result


def make_vectors(configuration: EnvConfig) -> dict[tuple[str, int], SyncVectorEnv]:
    """Every environment of a configuration, by group and number, each in a vector of one."""
    from gymnasium.vector import SyncVectorEnv
    from lerobot.envs.configs import EnvConfig

    choose_gl_backend()
    with _quiet_imports():
        try:
            if type(configuration).create_envs is EnvConfig.create_envs:
                importlib.import_module(configuration.package_name)  # create_envs would, and print that it does
            made = configuration.create_envs(n_envs=1, use_async_envs=False)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"environment {configuration.type!r} is not installed ({error.name} is missing); install the package "
                f"that brings {configuration.package_name!r}"
            ) from error
    vectors = {(str(group), int(index)): vector for group, members in made.items() for index, vector in members.items()}
    for vector in vectors.values():
        if not isinstance(vector, SyncVectorEnv):
            raise ConfigurationError(
                f"create_envs of environment {configuration.type!r} gives a {type(vector).__name__}; expected a "
                "SyncVectorEnv for n_envs=1, use_async_envs=False"
            )
    return vectors


def picture_sizes(images: Mapping[str, NDArray[np.uint8]]) -> dict[str, tuple[int, int]]:
    """Height and width of each picture."""
    return {key: (image.shape[0], image.shape[1]) for key, image in images.items()}


def said_instruction(vector: SyncVectorEnv) -> str:
    """What an environment says its task is, looked up as ``lerobot-eval`` does."""
    for attribute in ("task_description", "task"):
        try:
            return str(vector.call(attribute)[0])
        except (AttributeError, NotImplementedError):
            continue
    return ""


def _is_success(info: Mapping[str, Any]) -> bool:
    """What LeRobot counts as success; an environment that resets itself puts it under ``final_info``."""
    final = info.get("final_info")
    return bool((final if isinstance(final, Mapping) else info).get("is_success", False))


@contextmanager
def _quiet_imports() -> Iterator[None]:
    """Without pygame's remarks, which are about itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        warnings.filterwarnings("ignore", message="Deprecated call to `pkg_resources", category=DeprecationWarning)
        yield

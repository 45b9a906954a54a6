"""robosuite: ten table-top tasks for a simulated Panda arm, on unmodified ``robosuite`` 1.4.0.

There is no wrapper of LeRobot's to follow, so the conventions are those of its LIBERO wrapper, which sits on the same
library, except that pictures are upright and not mirrored: ``observation.state`` is the end effector's position, its
orientation as axis times angle, and the positions of the two finger joints (zeros for ``wipe``, which holds a sponge);
an action is a displacement and a turn of the hand and the gripper's command, in [-1, 1], for the operational-space
controller ``OSC_POSE`` at 20 Hz.

Non-obvious behaviour, kept because published policies saw it: robosuite takes pictures and states before the end of a
control step (see `vla_cl.envs.robosuite_core`), some milliseconds old when the step returns.

Zhu et al. 2020, "robosuite: A Modular Simulation Framework and Benchmark for Robot Learning".
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.lookup import SEEDS, first_states, unknown_task
from vla_cl.envs.rendering import check_render_profile, choose_gl_backend, look_fingerprint, rendering_error
from vla_cl.envs.robosuite_core import RobosuiteCore, global_seed
from vla_cl.envs.robosuite_pictures import SampledPictures
from vla_cl.envs.robosuite_tasks import TASKS
from vla_cl.interfaces import Environment, Suite
from vla_cl.types import ConfigurationError, Observation, Split, SuiteSpec, Task, Transition

if TYPE_CHECKING:
    from robosuite.environments.robot_env import RobotEnv

CAMERAS: Mapping[str, str] = {
    "observation.images.agentview": "agentview",
    "observation.images.wrist": "robot0_eye_in_hand",
}
STATE_SIZE = 8
ACTION_SIZE = 7
FPS = 20
MAX_STEPS = 500
LONGEST = 10_000


class Robosuite(Suite):
    """Ten of robosuite's single-arm tasks, ``robosuite/<name>``."""

    name = "robosuite"

    def __init__(self, image_size: int = 96, render_profile: str = "reference", max_steps: int = MAX_STEPS) -> None:
        """Declare the suite; nothing is simulated yet.

        Args:
            image_size: Height and width of both pictures, in pixels.
            render_profile: ``reference`` (MuJoCo's defaults) or ``fast``.
            max_steps: Time limit of an episode, in env steps.

        Raises:
            ConfigurationError: An argument is out of range.
        """
        if not 16 <= image_size <= 2048:
            raise ConfigurationError(f"image_size is a number of pixels from 16 to 2048, got {image_size}")
        if not 1 <= max_steps <= LONGEST:
            raise ConfigurationError(f"max_steps is a number of env steps from 1 to {LONGEST}, got {max_steps}")
        self.image_size = image_size
        self.render_profile = check_render_profile(render_profile)
        self.max_steps = max_steps

    @property
    def spec(self) -> SuiteSpec:
        """Two square cameras, eight state entries, seven action entries in [-1, 1]."""
        return SuiteSpec(
            cameras=dict.fromkeys(CAMERAS, (self.image_size, self.image_size)),
            state_size=STATE_SIZE,
            action_size=ACTION_SIZE,
            render_profile=self.render_profile,
            control_mode="relative",
            image_orientation="upright",
            fps=FPS,
            action_low=(-1.0,) * ACTION_SIZE,
            action_high=(1.0,) * ACTION_SIZE,
        )

    def tasks(self) -> Sequence[Task]:
        """The ten tasks, in alphabetical order."""
        return [self.task(name) for name in TASKS]

    def task(self, name: str) -> Task:
        """A task by its name (``pick-place-can``) or id (``robosuite/pick-place-can``).

        Raises:
            ConfigurationError: There is none; the message names the nearest.
        """
        short = name.removeprefix(f"{self.name}/")
        if short in TASKS:
            return Task(id=f"{self.name}/{short}", instruction=TASKS[short][1], max_steps=self.max_steps)
        raise unknown_task(self.name, name, short.lower(), tuple(TASKS), cutoff=0.5)

    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """Consecutive seeds: report from 1000, train from 100000, select from 200000.

        Raises:
            ConfigurationError: ``count`` is negative or larger than the split.
        """
        return first_states(SEEDS, split, count, "robosuite")

    def make_environment(self, task: Task) -> RobosuiteEnvironment:
        """Build the world of a task (about half a second).

        Raises:
            ConfigurationError: The suite has no such task, or robosuite is not installed.
        """
        return RobosuiteEnvironment(self.task(task.id), task.max_steps, self.image_size, self.render_profile)

    def fingerprint(self) -> Mapping[str, object]:
        """Adds the time limit and the versions of the simulator."""
        return {
            **super().fingerprint(),
            **look_fingerprint(self.render_profile),
            "max_steps": self.max_steps,
            "robosuite": importlib.metadata.version("robosuite"),
            "mujoco": importlib.metadata.version("mujoco"),
        }


class RobosuiteEnvironment(Environment):
    """One robosuite task. The GL context is made when the first picture is asked for.

    Attributes:
        core: The simulation.
    """

    def __init__(self, task: Task, max_steps: int, image_size: int, render_profile: str) -> None:
        """Build the simulation; see `Robosuite` for the arguments."""
        self._task, self._max_steps, self._size = task, max_steps, image_size
        self.core = RobosuiteCore(build_simulation(TASKS[task.name][0]))
        self._pictures = SampledPictures(self.core, render_profile, image_size)
        self._steps: int | None = None

    def reset(self, initial_state: int) -> None:
        """Start from what robosuite's own hard reset gives after ``np.random.seed(initial_state)``."""
        self.core.reset(initial_state)
        self._steps = 0

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Execute one action, shape (7,). robosuite itself clips it to [-1, 1].

        Raises:
            ValueError: The action has another shape or is not finite.
            RuntimeError: The time limit is over, or the environment was never reset.
        """
        if action.shape != (ACTION_SIZE,) or not np.isfinite(action).all():
            raise ValueError(f"{self._task.id}: an action is {ACTION_SIZE} finite numbers, got {action!r}")
        if self._steps is None or self._steps >= self._max_steps:
            raise RuntimeError(f"{self._task.id}: the episode is over or has not begun; call reset")
        with contextlib.redirect_stdout(io.StringIO()):  # `Wipe` prints a line whenever a joint is near its limit
            reward = self.core.step(action[: self.core.environment.action_dim])
        self._steps += 1
        success = bool(self.core.environment._check_success())
        return Transition(reward, success, ended=success or self._steps >= self._max_steps)

    def observe(self) -> Observation:
        """Both cameras and the state, as robosuite sampled them."""
        images = {key: np.ascontiguousarray(self._pictures.draw(camera, self._size)) for key, camera in CAMERAS.items()}
        return Observation(images=images, state=self.state(), instruction=self._task.instruction)

    def state(self) -> NDArray[np.float32]:
        """Position in metres, axis times angle in radians, finger positions in metres, float32 (8,)."""
        return state_vector(self.core)

    def film(self) -> NDArray[np.uint8]:
        """The front camera in at least 256 x 256 pixels."""
        return np.ascontiguousarray(self._pictures.film("agentview"))

    def close(self) -> None:
        """Free the renderer and the simulation; a second call does nothing."""
        self._pictures.close()


def state_vector(core: RobosuiteCore) -> NDArray[np.float32]:
    """LeRobot's ``observation.state`` of a Panda: position, axis times angle, finger positions, float32 (8,)."""
    sample = core.sample
    fingers = np.zeros(2) if not len(sample.gripper_position) else sample.gripper_position
    turn = axis_times_angle(sample.effector_quaternion.astype(np.float32))
    return np.concatenate([sample.effector_position, turn, fingers]).astype(np.float32)


def axis_times_angle(quaternion: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rotation as LeRobot computes it in single precision, from x, y, z, w; zero where there is hardly any."""
    scalar = np.clip(quaternion[3], np.float32(-1), np.float32(1))
    sine = np.sqrt(np.maximum(np.float32(1) - scalar * scalar, np.float32(0)))
    if sine <= 1e-10:
        return np.zeros(3, dtype=np.float32)
    turn: NDArray[np.float32] = quaternion[:3] / sine * (np.float32(2) * np.arccos(scalar))
    return turn


def build_simulation(name: str) -> RobotEnv:
    """A robosuite environment that renders nothing."""
    require_robosuite()
    import robosuite

    with quiet(), global_seed(0):
        return robosuite.make(
            name,
            robots="Panda",
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            control_freq=FPS,
            ignore_done=True,  # the suite counts
            hard_reset=True,
        )


def require_robosuite() -> None:
    """Import robosuite, or say how to get it."""
    choose_gl_backend()
    try:
        with quiet():
            importlib.import_module("robosuite")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"robosuite is not installed ({error.name} is missing); run `pip install 'vla-cl[robosuite]'`"
        ) from error
    except (ImportError, AttributeError, RuntimeError) as error:  # MuJoCo loads its GL back end when it is imported
        raise rendering_error(error) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without robosuite's advice to write a file of private macros, which it logs as a warning at every import.

    Nor with Python's remark about a backslash in robosuite's logo, which it makes when it first compiles that file.
    """

    def is_news(record: logging.LogRecord) -> bool:
        return "macro" not in record.getMessage()

    logger = logging.getLogger("robosuite_logs")
    logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The 'warn' method is deprecated")
            warnings.filterwarnings("ignore", message="invalid escape sequence", category=SyntaxWarning)
            yield
    finally:
        logger.removeFilter(is_news)

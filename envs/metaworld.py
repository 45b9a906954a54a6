"""Meta-World: 50 table-top tasks for a simulated Sawyer arm, on unmodified ``metaworld`` 3.0.0.

The conventions are those of LeRobot's own wrapper, so policies, datasets and results carry over: camera ``corner2``
moved to (0.75, 0.075, 0.7) with both image axes flipped; ``observation.state`` is the hand's position and the gripper's
opening; an action is three displacements of the hand and the gripper's effort, in [-1, 1]; 80 env steps per second, at
most 500. An initial state is LeRobot's ``reset(seed=...)``; 1000, where ``lerobot-eval`` starts, is the first that is
reported.

Non-obvious behaviour: where a task marks its goal in the picture (``reach``, ``push``), Meta-World shows the mark at a
stale place until the first env step after a reset. LeRobot's wrapper shows the same, so it is kept.

Yu et al. 2019, "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning".
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.lookup import SEEDS, first_states, unknown_task
from vla_cl.envs.metaworld_fast import FastSimulation
from vla_cl.envs.metaworld_tasks import INSTRUCTIONS
from vla_cl.envs.rendering import (
    OffscreenRenderer,
    check_render_profile,
    choose_gl_backend,
    look_fingerprint,
    rendering_error,
)
from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.types import ConfigurationError, Observation, Split, SuiteSpec, Task, Transition

if TYPE_CHECKING:
    import metaworld.types
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

IMAGE_KEY = "observation.image"
CAMERA = "corner2"
CAMERA_POSITION = (0.75, 0.075, 0.7)
STATE_SIZE = 4
ACTION_SIZE = 4
FPS = 80
MAX_STEPS = 500  # metaworld refuses to go further
FILM_SIZE = 256
BENCHMARK_SEED = 42  # LeRobot's


class MetaWorld(Suite):
    """Meta-World's 50 tasks, ``metaworld/<name>``."""

    name = "metaworld"

    def __init__(
        self,
        image_size: int = 96,
        render_profile: str = "reference",
        max_steps: int = MAX_STEPS,
        correct_first_picture: bool = False,
    ) -> None:
        """Declare the suite; nothing is simulated yet.

        Args:
            image_size: Height and width of the picture, in pixels.
            render_profile: ``reference`` (MuJoCo's defaults) or ``fast`` (no shadow, reflection, multisampling).
            max_steps: Time limit of an episode, in env steps, at most 500.
            correct_first_picture: Show the goal's mark where it is from the first picture on. Off, as in LeRobot, the
                first picture after a reset shows it in a stale place.

        Raises:
            ConfigurationError: An argument is out of range.
        """
        if not 16 <= image_size <= 2048:
            raise ConfigurationError(f"image_size is a number of pixels from 16 to 2048, got {image_size}")
        if not 1 <= max_steps <= MAX_STEPS:
            raise ConfigurationError(
                f"max_steps is a number of env steps from 1 to {MAX_STEPS}, Meta-World's own limit, got {max_steps}"
            )
        self.image_size = image_size
        self.render_profile = check_render_profile(render_profile)
        self.max_steps = max_steps
        self.correct_first_picture = correct_first_picture

    @property
    def spec(self) -> SuiteSpec:
        """One square camera, four state entries, four action entries in [-1, 1]."""
        return SuiteSpec(
            cameras={IMAGE_KEY: (self.image_size, self.image_size)},
            state_size=STATE_SIZE,
            action_size=ACTION_SIZE,
            render_profile=self.render_profile,
            control_mode="relative_position",
            image_orientation="upright",
            fps=FPS,
            action_low=(-1.0,) * ACTION_SIZE,
            action_high=(1.0,) * ACTION_SIZE,
        )

    def tasks(self) -> Sequence[Task]:
        """The 50 tasks, in alphabetical order."""
        return [self.task(name) for name in sorted(INSTRUCTIONS)]

    def task(self, name: str) -> Task:
        """A task by its name (``drawer-open``) or id (``metaworld/drawer-open``).

        Raises:
            ConfigurationError: There is none; the message names the nearest.
        """
        short = name.removeprefix(f"{self.name}/")
        if short in INSTRUCTIONS:
            return Task(id=f"{self.name}/{short}", instruction=INSTRUCTIONS[short], max_steps=self.max_steps)
        unversioned = short[:-3] if short[-3:-1] == "-v" else short
        if unversioned in INSTRUCTIONS:
            raise ConfigurationError(
                f"tasks are named without their version: write {unversioned!r} instead of {name!r}"
            )
        raise unknown_task(self.name, name, unversioned, sorted(INSTRUCTIONS))

    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """Consecutive seeds: report from 1000, train from 100000, select from 200000.

        Raises:
            ConfigurationError: ``count`` is negative or larger than the split.
        """
        return first_states(SEEDS, split, count, "Meta-World")

    def make_environment(self, task: Task) -> MetaWorldEnvironment:
        """Build the world of a task (about a second; resetting it takes milliseconds).

        Raises:
            ConfigurationError: The suite has no such task, or Meta-World is not installed.
        """
        self.task(task.id)
        return MetaWorldEnvironment(task, self.image_size, self.render_profile, self.correct_first_picture)

    def make_expert(self, task: Task) -> MetaWorldExpert:
        """The task's scripted expert, as Meta-World ships it."""
        return MetaWorldExpert(self.task(task.id))

    def fingerprint(self) -> Mapping[str, object]:
        """Adds the camera, the time limit and the versions of the simulator."""
        return {
            **super().fingerprint(),
            **look_fingerprint(self.render_profile),
            "camera": [CAMERA, *CAMERA_POSITION],
            "max_steps": self.max_steps,
            "metaworld": importlib.metadata.version("metaworld"),
            "mujoco": importlib.metadata.version("mujoco"),
            **({"correct_first_picture": True} if self.correct_first_picture else {}),
        }


class MetaWorldEnvironment(Environment):
    """One Meta-World task. The GL context is made when the first picture is asked for."""

    def __init__(self, task: Task, image_size: int, render_profile: str, correct_first_picture: bool) -> None:
        """Build the simulation; see `MetaWorld` for the arguments."""
        choose_gl_backend()
        self._task = task
        self._image_size = image_size
        self._render_profile = render_profile
        self._correct_first_picture = correct_first_picture
        self._renderer: OffscreenRenderer | None = None
        self._raw: NDArray[np.float64] | None = None
        self._steps = 0
        self._simulation = _build_simulation(f"{task.name}-v3")
        self._fresh = _Snapshot(self._simulation)
        self._fast = FastSimulation(self._simulation)

    @property
    def raw_observation(self) -> NDArray[np.float64]:
        """Meta-World's own observation, float64 (39,): hand, gripper, objects, the same one step ago, goal.

        Raises:
            RuntimeError: The environment was never reset.
        """
        if self._raw is None:
            raise RuntimeError(f"{self._task.id}: call reset before anything else")
        return self._raw

    def reset(self, initial_state: int) -> None:
        """Start from LeRobot's ``reset(seed=initial_state)`` of a new environment.

        Meta-World's reset simulates before it clears the simulation, so its result depends a little on the past (in
        ``push`` the goal's mark does); that is why the newly built state is put back first.
        """
        self._fresh.restore(self._simulation)
        self._simulation.seed(initial_state)
        raw, _ = self._simulation.reset(seed=initial_state)
        self._raw = raw
        self._steps = 0
        if self._correct_first_picture:
            import mujoco

            # Meta-World moves the mark in the model and does not compute where that puts it; the next step would.
            mujoco.mj_kinematics(self._simulation.model, self._simulation.data)

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Execute one action, shape (4,). Meta-World itself clips it to [-1, 1].

        Raises:
            ValueError: The action has another shape or is not finite.
            RuntimeError: The time limit is over, or the environment was never reset.
        """
        return self.execute(action[np.newaxis])[0]

    def execute(self, actions: NDArray[np.float32]) -> Sequence[Transition]:
        """Execute actions, shape (K, 4), until they are used up or the episode has ended; one transition each.

        Raises:
            ValueError: The actions have another shape, or one of them is not finite; none was executed.
            RuntimeError: The time limit is over, or the environment was never reset.
        """
        if actions.ndim != 2 or actions.shape[1] != ACTION_SIZE or not np.isfinite(actions).all():
            raise ValueError(f"{self._task.id}: an action is {ACTION_SIZE} finite numbers, got {actions!r}")
        self.raw_observation  # noqa: B018 - raises if reset is due
        transitions: list[Transition] = []
        for action, displacement in zip(actions, self._fast.displacements(actions), strict=True):
            if self._steps >= self._task.max_steps:
                raise RuntimeError(
                    f"{self._task.id}: the time limit of {self._task.max_steps} env steps is over; call reset"
                )
            self._raw, reward, success = self._fast.step(action, displacement, follows_a_step=bool(transitions))
            self._steps += 1
            transitions.append(Transition(reward, success, success or self._steps >= self._task.max_steps))
            if transitions[-1].ended:
                break
        return transitions

    def observe(self) -> Observation:
        """Render the camera and read the state."""
        picture = self._picture(self._image_size)
        return Observation(images={IMAGE_KEY: picture}, state=self.state(), instruction=self._task.instruction)

    def state(self) -> NDArray[np.float32]:
        """Hand position in metres and gripper opening from 0 (closed) to 1, float32 (4,)."""
        return self.raw_observation[:STATE_SIZE].astype(np.float32)

    def film(self) -> NDArray[np.uint8]:
        """The camera in at least 256 x 256 pixels."""
        return self._picture(max(FILM_SIZE, self._image_size))

    def close(self) -> None:
        """Free the renderer and the simulation; a second call does nothing."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._fast.close()
        self._simulation.close()

    def _picture(self, size: int) -> NDArray[np.uint8]:
        if self._renderer is None:
            largest = max(FILM_SIZE, self._image_size)
            self._renderer = OffscreenRenderer(self._simulation.model, self._render_profile, largest, largest)
        picture = self._renderer.picture(self._simulation.data, CAMERA, size, size)
        return np.ascontiguousarray(picture[::-1, ::-1])  # this camera hangs upside down


class MetaWorldExpert(Expert):
    """A scripted expert of ``metaworld.policies``: a proportional controller that sees objects and goal."""

    def __init__(self, task: Task) -> None:
        """Load the script of a task."""
        _require_metaworld()
        from metaworld.policies import ENV_POLICY_MAP

        self._policy = ENV_POLICY_MAP[f"{task.name}-v3"]()

    def act(self, environment: Environment) -> NDArray[np.float32]:
        """The script's action, clipped to [-1, 1] as Meta-World clips it, float32 (4,)."""
        if not isinstance(environment, MetaWorldEnvironment):
            raise TypeError(f"a Meta-World expert needs a MetaWorldEnvironment, got {type(environment).__name__}")
        observation = environment.raw_observation.copy()  # some scripts write into what they are given
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")  # the scripts exceed the range on purpose
            action: NDArray[np.float32] = self._policy.get_action(observation)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


class _Snapshot:
    """What use changes in a new simulation and a reset does not set anew: MuJoCo's data, moved parts of the model.

    Python attributes are left alone: a reset sets those that matter, and some are windows into MuJoCo's data.
    """

    MOVED = ("body_pos", "body_quat", "site_pos", "site_quat")

    def __init__(self, simulation: SawyerXYZEnv) -> None:
        import mujoco

        self._data = mujoco.MjData(simulation.model)
        mujoco.mj_copyData(self._data, simulation.model, simulation.data)
        self._model = {key: getattr(simulation.model, key).copy() for key in self.MOVED}

    def restore(self, simulation: SawyerXYZEnv) -> None:
        import mujoco

        mujoco.mj_copyData(simulation.data, simulation.model, self._data)
        for key, value in self._model.items():
            getattr(simulation.model, key)[:] = value


def _build_simulation(name: str) -> SawyerXYZEnv:
    """A ``metaworld.SawyerXYZEnv`` exactly as LeRobot's wrapper builds it, without renderer."""
    environment_class, first_task = _benchmark(name)
    simulation = environment_class(camera_name=CAMERA)
    simulation.set_task(first_task)
    simulation.model.cam_pos[simulation.model.camera(CAMERA).id] = CAMERA_POSITION
    simulation.reset()
    simulation._freeze_rand_vec = False  # or every episode starts alike
    simulation.seeded_rand_vec = True  # draw from the generator that `seed` sets
    return simulation


@cache
def _benchmark(name: str) -> tuple[type[SawyerXYZEnv], metaworld.types.Task]:
    """The class of a task and the first variation of its benchmark MT1."""
    _require_metaworld()
    import metaworld

    variations = metaworld._N_GOALS
    metaworld._N_GOALS = 1  # the first of 50 is wanted; drawing the others resets the world a hundred times
    try:
        benchmark = metaworld.MT1(name, seed=BENCHMARK_SEED)
    finally:
        metaworld._N_GOALS = variations
    return benchmark.train_classes[name], benchmark.train_tasks[0]


def _require_metaworld() -> None:
    """Import Meta-World, or say how to get it."""
    choose_gl_backend()
    try:
        importlib.import_module("metaworld")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Meta-World is not installed ({error.name} is missing); run `pip install 'vla-cl[metaworld]'`"
        ) from error
    except (ImportError, AttributeError, RuntimeError) as error:  # MuJoCo loads its GL back end when it is imported
        raise rendering_error(error) from error

"""LIBERO: 130 household tasks for a simulated Panda arm, on unmodified ``hf-libero`` 0.1.4 and ``robosuite`` 1.4.0.

The conventions are those of LeRobot's own wrapper and its environment processor, so policies, datasets and results
carry over. ``observation.images.image`` looks at the scene, ``observation.images.image2`` is the hand's camera; both
are upright and mirrored (left and right swapped). ``observation.state`` is the end effector's position, its orientation
as axis times angle, and the positions of the two fingers; an action is a displacement and a turn of the hand and the
gripper's command, in [-1, 1], at 20 Hz. LIBERO stores 50 states of each task; initial states below 50 are these.

Non-obvious behaviour, kept because published policies saw it:

* Pictures and states are some milliseconds old when a step returns (see `vla_cl.envs.robosuite_core`).
* A stored state does not say where cabinets, stoves and other fixtures stand; a reset draws that from numpy's
  generator. State i is drawn with seed 1000 + i, as ``lerobot-eval`` does by default.
* LIBERO forgets to empty its list of doors and burners to set when it loads a model anew, and draws once more for each
  of them at every further reset. State i is therefore drawn as in the i-th episode (from 0) of ``lerobot-eval`` with
  one environment; with several, stock LeRobot places the fixtures of such tasks a little differently.

Liu et al. 2023, "LIBERO: Benchmarking Knowledge Transfer for Lifelong Robot Learning".
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero_catalog import SUITES, initial_states_file, instruction, problem_file, task_names, task_orders
from vla_cl.envs.libero_initial_states import read_initial_states
from vla_cl.envs.libero_package import import_libero
from vla_cl.envs.lookup import first_states, unknown_task
from vla_cl.envs.rendering import check_render_profile, look_fingerprint
from vla_cl.envs.robosuite_core import RobosuiteCore, global_seed
from vla_cl.envs.robosuite_pictures import SampledPictures
from vla_cl.interfaces import Environment, Suite
from vla_cl.types import ConfigurationError, Observation, Split, SuiteSpec, Task, Transition

if TYPE_CHECKING:
    from robosuite.environments.robot_env import RobotEnv

CAMERAS: Mapping[str, str] = {
    "observation.images.image": "agentview",
    "observation.images.image2": "robot0_eye_in_hand",
}
STATE_SIZE = 8
ACTION_SIZE = 7
FPS = 20
LONGEST = 10_000
STORED_STATES = 50
FIRST_SEED = 1000  # lerobot-eval's default
FIRST_RANDOM_STATE = 100_000
LARGEST_RANDOM_COUNT = 100_000

CONTROL_MODES = ("relative", "absolute")
LEROBOT_MAX_STEPS: Mapping[str, int] = {
    "libero_spatial": 280,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
_LOADS_BEFORE_FIRST_EPISODE = 2  # LeRobot's wrapper builds the environment and resets it once before it is asked to
_PLACEMENT_ATTEMPTS = 20


@dataclass(frozen=True)
class Protocol:
    """How episodes start, how long they last and which states serve what.

    Attributes:
        report: Stored states of the split that is reported.
        select: Stored states of the split that chooses checkpoints.
        settling_steps: Env steps before the first observation, in which objects come to rest.
        settling_gripper: The gripper's command in these steps; everything else is 0.
        max_steps: Time limit in env steps, for each suite.
    """

    report: range
    select: range
    settling_steps: int
    settling_gripper: float
    max_steps: Mapping[str, int]


PROTOCOLS: Mapping[str, Protocol] = {
    "lerobot": Protocol(range(40), range(40, STORED_STATES), 10, -1.0, LEROBOT_MAX_STEPS),
    "official": Protocol(range(20), range(20), 5, 0.0, dict.fromkeys(SUITES, 600)),
}
"""``lerobot``: as ``lerobot-eval``, but the states that select are not those that report. ``official``: as LIBERO's own
training script, which selects the best checkpoint on the states that it reports; so numbers come out higher."""


class Libero(Suite):
    """One of LIBERO's suites, ``<suite>/<name of the problem file>``."""

    def __init__(
        self,
        suite: str,
        image_size: int = 256,
        render_profile: str = "reference",
        assets: str | None = None,
        control_mode: str = "relative",
        protocol: str = "lerobot",
        order: int = 0,
        max_steps: int | None = None,
    ) -> None:
        """Declare the suite; nothing is simulated yet.

        Args:
            suite: One of `vla_cl.envs.libero_catalog.SUITES`.
            image_size: Height and width of both pictures, in pixels.
            render_profile: ``reference`` (MuJoCo's defaults) or ``fast``.
            assets: Folder of LIBERO's meshes and textures; None lets hf-libero find or download them.
            control_mode: ``relative``: an action moves the hand from where it is; ``absolute``: it is the hand's pose.
            protocol: One of `PROTOCOLS`.
            order: Which of LIBERO's 21 task orders `tasks` follows; ``libero_90`` has the first only.
            max_steps: Time limit of an episode, in env steps; None takes the protocol's.

        Raises:
            ConfigurationError: An argument is out of range.
        """
        self.suite = self.name = _one_of("suite", suite, SUITES)
        if not 16 <= image_size <= 2048:
            raise ConfigurationError(f"image_size is a number of pixels from 16 to 2048, got {image_size}")
        if max_steps is not None and not 1 <= max_steps <= LONGEST:
            raise ConfigurationError(f"max_steps is a number of env steps from 1 to {LONGEST} or null, got {max_steps}")
        self.image_size = image_size
        self.render_profile = check_render_profile(render_profile)
        self.assets = assets
        self.control_mode = _one_of("control_mode", control_mode, CONTROL_MODES)
        self.protocol = _one_of("protocol", protocol, tuple(PROTOCOLS))
        self.max_steps = PROTOCOLS[protocol].max_steps[suite] if max_steps is None else max_steps
        orders = 1 if suite == "libero_90" else len(task_orders())
        if not 0 <= order < orders:
            raise ConfigurationError(f"order is one of LIBERO's orders of {suite}, from 0 to {orders - 1}, got {order}")
        self.order = order

    @property
    def spec(self) -> SuiteSpec:
        """Two square cameras, eight state entries, seven action entries in [-1, 1]."""
        return SuiteSpec(
            cameras=dict.fromkeys(CAMERAS, (self.image_size, self.image_size)),
            state_size=STATE_SIZE,
            action_size=ACTION_SIZE,
            render_profile=self.render_profile,
            control_mode=self.control_mode,
            image_orientation="upright_mirrored",
            fps=FPS,
            action_low=(-1.0,) * ACTION_SIZE,
            action_high=(1.0,) * ACTION_SIZE,
        )

    def tasks(self) -> Sequence[Task]:
        """Every task, in the order chosen."""
        names = task_names(self.suite)
        if self.suite == "libero_90":
            return [self.task(name) for name in names]
        return [self.task(names[position]) for position in task_orders()[self.order]]

    def task(self, name: str) -> Task:
        """A task by the name of its problem file, with or without the suite before it.

        Raises:
            ConfigurationError: There is none; the message names the nearest.
        """
        names = task_names(self.suite)
        short = name.removeprefix(f"{self.suite}/")
        if short in names:
            return Task(f"{self.suite}/{short}", instruction(short), self.max_steps)
        raise unknown_task(self.suite, name, short.lower().replace(" ", "_"), names, cutoff=0.4, shown=10)

    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """Stored states to report and to select (see `PROTOCOLS`), random placements from 100000 to train.

        Raises:
            ConfigurationError: ``count`` is negative or larger than the split.
        """
        protocol = PROTOCOLS[self.protocol]
        train = range(FIRST_RANDOM_STATE, FIRST_RANDOM_STATE + LARGEST_RANDOM_COUNT)
        splits: Mapping[Split, range] = {"train": train, "select": protocol.select, "report": protocol.report}
        return first_states(splits, split, count, self.suite, f" of protocol {self.protocol!r}")

    def make_environment(self, task: Task) -> LiberoEnvironment:
        """Build the world of a task (some seconds; LIBERO loads everything twice).

        Raises:
            ConfigurationError: The suite has no such task, LIBERO is not installed, or its assets are not to be had.
        """
        self.task(task.id)
        return LiberoEnvironment(
            task,
            self.image_size,
            self.render_profile,
            Path(self.assets) if self.assets else None,
            self.control_mode,
            PROTOCOLS[self.protocol],
        )

    def fingerprint(self) -> Mapping[str, object]:
        """Adds the meaning of actions, the protocol, the time limit and the versions of the simulator."""
        packages = ("hf-libero", "robosuite", "mujoco")
        return {
            **super().fingerprint(),
            **look_fingerprint(self.render_profile),
            "control_mode": self.control_mode,
            "protocol": self.protocol,
            "max_steps": self.max_steps,
            **{package: importlib.metadata.version(package) for package in packages},
        }


class LiberoEnvironment(Environment):
    """One task of LIBERO. The GL context is made when the first picture is asked for.

    Attributes:
        core: The simulation.
    """

    def __init__(
        self,
        task: Task,
        image_size: int,
        render_profile: str,
        assets: Path | None,
        control_mode: str,
        protocol: Protocol,
    ) -> None:
        """Build the simulation; see `Libero` for the arguments."""
        import_libero(assets)
        self._task, self._size, self._protocol = task, image_size, protocol
        self._relative = control_mode == "relative"
        self._stored = read_initial_states(initial_states_file(task.suite, task.name))
        simulation = _build_simulation(problem_file(task.suite, task.name))
        self._initializers = list(simulation.object_property_initializers)
        self.core = RobosuiteCore(simulation)
        self._pictures = SampledPictures(self.core, render_profile, image_size)
        self._steps: int | None = None

    def reset(self, initial_state: int) -> None:
        """Start from a stored state (below 50) or from a placement drawn with this number as seed.

        Raises:
            ValueError: There is no stored state of this number and it is no seed of a random placement.
        """
        stored = initial_state < len(self._stored)
        if not (initial_state >= 0 and (stored or initial_state >= FIRST_RANDOM_STATE)):
            raise ValueError(
                f"{self._task.id}: an initial state is 0 to {len(self._stored) - 1} or from {FIRST_RANDOM_STATE} on, "
                f"got {initial_state}"
            )
        self._place(FIRST_SEED + initial_state if stored else initial_state, episode=initial_state if stored else 0)
        if stored:
            self.core.set_state(self._stored[initial_state])
        settling = np.zeros(ACTION_SIZE, dtype=np.float32)
        settling[-1] = self._protocol.settling_gripper
        for _ in range(self._protocol.settling_steps):
            self.core.step(settling)
        for robot in self.core.environment.robots:
            robot.controller.use_delta = self._relative
        self._steps = 0

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Execute one action, shape (7,). robosuite itself clips it to [-1, 1].

        Raises:
            ValueError: The action has another shape or is not finite.
            RuntimeError: The time limit is over, or the environment was never reset.
        """
        if action.shape != (ACTION_SIZE,) or not np.isfinite(action).all():
            raise ValueError(f"{self._task.id}: an action is {ACTION_SIZE} finite numbers, got {action!r}")
        if self._steps is None or self._steps >= self._task.max_steps:
            raise RuntimeError(f"{self._task.id}: the episode is over or has not begun; call reset")
        reward = self.core.step(action)
        self._steps += 1
        success = reward > 0  # LIBERO's reward is 1 where the goal holds, else 0
        return Transition(reward, success, ended=success or self._steps >= self._task.max_steps)

    def observe(self) -> Observation:
        """Both cameras and the state, as robosuite sampled them."""
        images = {key: _mirrored(self._pictures.draw(camera, self._size)) for key, camera in CAMERAS.items()}
        return Observation(images=images, state=self.state(), instruction=self._task.instruction)

    def state(self) -> NDArray[np.float32]:
        """Position in metres, axis times angle in radians, finger positions in metres, float32 (8,)."""
        sample = self.core.sample
        turn = _axis_times_angle(sample.effector_quaternion)
        return np.concatenate([sample.effector_position, turn, sample.gripper_position]).astype(np.float32)

    def film(self) -> NDArray[np.uint8]:
        """The camera that looks at the scene, in at least 256 x 256 pixels, mirrored as the policy sees it."""
        return _mirrored(self._pictures.film(CAMERAS["observation.images.image"]))

    def close(self) -> None:
        """Free the renderer and the simulation; a second call does nothing."""
        self._pictures.close()
        self.core.close()

    def _place(self, seed: int, episode: int) -> None:
        """Robosuite's reset, with doors and burners drawn as often as in this episode of ``lerobot-eval``.

        Where objects do not fit, LIBERO tries again for ever; here a few times, each with a seed of its own.
        """
        from robosuite.utils.errors import RandomizationError

        for attempt in range(_PLACEMENT_ATTEMPTS):
            loads = _LOADS_BEFORE_FIRST_EPISODE + episode + 1
            self.core.environment.object_property_initializers = _Settled(self._initializers * loads)
            try:
                self.core.reset(seed + attempt * LARGEST_RANDOM_COUNT * 10)
            except RandomizationError:
                if attempt + 1 == _PLACEMENT_ATTEMPTS:
                    raise
            else:
                return


class _Settled(list[Any]):
    """A list that a load of the model does not make longer."""

    def append(self, item: object) -> None:
        """Leave it as it is."""


def _build_simulation(problem: Path) -> RobotEnv:
    """LIBERO's environment of a problem file, without a renderer of its own."""
    from libero.libero.envs.env_wrapper import ControlEnv

    with global_seed(0):
        wrapper = ControlEnv(
            bddl_file_name=str(problem),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            control_freq=FPS,
            ignore_done=True,
            hard_reset=True,
        )
    return wrapper.env


def _axis_times_angle(quaternion: NDArray[np.float64]) -> NDArray[np.float32]:
    """A rotation given as x, y, z, w, computed in single precision with torch, as LeRobot's processor does.

    Torch's square root and arc cosine differ from NumPy's in the last bit, and a policy's next picture would then too.
    """
    import torch  # not with the module: a process that only lists tasks should not wait for it

    x, y, z, w = torch.from_numpy(quaternion[None]).float().unbind(1)
    w = w.clamp(-1.0, 1.0)
    sine = torch.sqrt(torch.clamp(1.0 - w * w, min=0.0))
    if not bool(sine > 1e-10):
        return np.zeros(3, dtype=np.float32)
    turn: NDArray[np.float32] = (torch.cat([x, y, z]) / sine * (2.0 * torch.acos(w))).numpy()
    return turn


def _mirrored(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture[:, ::-1])


def _one_of(what: str, value: str, allowed: Sequence[str]) -> str:
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"{what} is one of {', '.join(allowed)}, got {value!r}{hint}")

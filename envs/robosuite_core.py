"""Steps and resets of robosuite 1.4 environments: the library's own numbers, without what it computes in vain.

Works on any unmodified `robosuite` environment with one arm, LIBERO's among them, by wrapping an instance. Another arm
than a Panda with its own gripper under an operational-space controller keeps robosuite's controller code as it is.

What robosuite does twenty-five times per control step, and what is done here:

* It runs MuJoCo's whole forward dynamics three times per substep: in ``step``, in the controller's ``update`` and in
  ``mj_step``. The second run repeats the first on the same state, and of the third only what depends on the controls
  is new. Here it is once ``mj_forward`` and once ``mj_step2``, with bit-identical results (there is a test).
* It updates every observable. Here the sampling clock is kept, and what a picture or a state vector needs is set aside
  at the moment at which robosuite would sample; drawing is left for when somebody looks.

A hard reset reads and compiles the model anew. Here the state of a newly compiled model is kept, MuJoCo's and Python's,
and put back; all that robosuite does after compiling is then done by robosuite itself, from the same random numbers.
Where loading the model draws random numbers, it is loaded each time and only what differs is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.robosuite_controller import Substeps
from vla_cl.envs.robosuite_recompile import CannotPatch, patch, skeleton

if TYPE_CHECKING:
    import mujoco
    from robosuite.environments.robot_env import RobotEnv

_BODIES = ("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat")
_SCENE = (*_BODIES, "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
"""What MuJoCo's scene is made of; steps leave it as it was at the start of their last substep."""

_COLOURS = ("geom_rgba", "site_rgba", "mat_rgba")
_LARGEST_RESTORED = 100_000  # numbers; larger arrays of a model are meshes, textures and height fields


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Robosuite draws from numpy's global generator: seed it, and put it back afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


class SamplingClock:
    """When robosuite's observables take their values; the same sums of the same floating-point numbers.

    An observable is sampled at the first substep of its period, counted from the reset. As a reset samples too, and
    counts as a substep, the samples of later control steps fall near the end of each step.
    """

    def __init__(self, period: float, timestep: float) -> None:
        self._period, self._timestep = period, timestep
        self._elapsed = 0.0
        self._sampled = True

    def restart(self, forced: int) -> None:
        """A reset, during which every observable was forced to update so many times."""
        self._elapsed, self._sampled = 0.0, True
        for _ in range(forced):
            self._advance()

    def tick(self) -> bool:
        """A substep; whether it is sampled."""
        due = not self._sampled and self._period >= self._elapsed + self._timestep
        self._sampled = self._sampled or due
        late = self._advance()
        return due or late

    def _advance(self) -> bool:
        """Whether the period ended without a sample, which robosuite makes up for at once."""
        self._elapsed += self._timestep
        if self._elapsed < self._period:
            return False
        late = not self._sampled
        self._elapsed %= self._period
        self._sampled = False
        return late


@dataclass
class Sample:
    """What robosuite's observables held at their last sample; the next one is written into the same scene and colours.

    Attributes:
        scene: Arrays of ``mujoco.MjData`` that a picture is drawn from.
        colours: Arrays of ``mujoco.MjModel`` that tasks change, a stove's light for example.
        effector_position: Of the end effector, in metres, float64 (3,).
        effector_quaternion: x, y, z, w, float64 (4,).
        gripper_position: Of the two fingers' joints, in metres, float64 (2,).
    """

    scene: dict[str, NDArray[np.float64]]
    colours: dict[str, NDArray[np.float32]]
    effector_position: NDArray[np.float64]
    effector_quaternion: NDArray[np.float64]
    gripper_position: NDArray[np.float64]


class RobosuiteCore:
    """A robosuite environment, stepped and reset quickly.

    Attributes:
        environment: robosuite's own; its ``sim``, ``robots`` and ``_check_success`` are there to be read.
    """

    def __init__(self, environment: RobotEnv) -> None:
        """Take an environment over.

        Args:
            environment: Built without renderer, ``hard_reset=True``.
        """
        self.environment = environment
        self._fresh: _Fresh | None = None
        self._clock = SamplingClock(1.0 / environment.control_freq, environment.model_timestep)
        self._sample: Sample | None = None

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model; a hard reset replaces it."""
        return self.environment.sim.model._model

    @property
    def data(self) -> mujoco.MjData:
        """The simulation's state."""
        return self.environment.sim.data._data

    @property
    def sample(self) -> Sample:
        """What a policy would see now.

        Raises:
            RuntimeError: The environment was never reset.
        """
        if self._sample is None:
            raise RuntimeError("call reset before anything else")
        return self._sample

    def reset(self, seed: int) -> None:
        """What ``np.random.seed(seed); environment.reset()`` gives, with ``hard_reset=True``, bit for bit."""
        with global_seed(seed):
            self._load()
            self.environment._reset_internal()
            self.environment.sim.forward()
            self.environment._obs_cache = {}
            self.environment.visualize(vis_settings=dict.fromkeys(self.environment._visualizations, False))
        self._connect()
        self._clock.restart(forced=1)
        self._take_sample()

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Continue from a stored state: time, positions, velocities; as LIBERO's ``set_init_state``."""
        self.environment.sim.set_state_from_flattened(state)
        self.environment.sim.forward()
        self.environment._check_success()
        post_process = getattr(self.environment, "_post_process", None)
        if post_process is not None:
            post_process()
        self._clock.tick()
        self._take_sample()

    def step(self, action: NDArray[np.float32]) -> float:
        """Robosuite's ``step``; its reward.

        Raises:
            ValueError: The environment's own horizon is over.
        """
        environment = self.environment
        if environment.done:
            raise ValueError("the episode is over; call reset")
        environment.timestep += 1
        count = int(environment.control_timestep / environment.model_timestep)
        if self._substeps is None:
            self._simulate(action, count)
        else:
            self._simulate_fast(self._substeps, action, count)
        environment.cur_time += environment.control_timestep
        reward, _, _ = environment._post_action(action)
        return float(reward)

    def close(self) -> None:
        """Free the simulation, and the fresh state kept for hard resets, which is as large."""
        self.environment.close()
        self._fresh = None

    def _simulate(self, action: NDArray[np.float32], count: int) -> None:
        """The substeps of a control step, any controller."""
        import mujoco

        model, data = self.model, self.data
        for substep in range(count):
            mujoco.mj_forward(model, data)
            self.environment._pre_action(action, policy_step=substep == 0)
            mujoco.mj_step2(model, data)
            if self._clock.tick():
                self._take_sample()

    def _simulate_fast(self, substeps: Substeps, action: NDArray[np.float32], count: int) -> None:
        """The same with a controller that asks for no accelerations, so that half of MuJoCo's work is done once."""
        import mujoco

        model, data = self.model, self.data
        mujoco.mj_forward(model, data)  # robosuite looks at the force sensors before it sets the controls
        substeps.begin(action)
        mujoco.mj_step2(model, data)
        if self._clock.tick():
            self._take_sample()
        flags = model.opt.disableflags
        model.opt.disableflags = flags | int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
        try:
            for left in reversed(range(count - 1)):
                if left == 0:  # nobody looks at the sensors before
                    model.opt.disableflags = flags
                mujoco.mj_step1(model, data)
                substeps.proceed(last=left == 0)
                mujoco.mj_step2(model, data)
                if self._clock.tick():
                    self._take_sample()
        finally:
            model.opt.disableflags = flags

    def _load(self) -> None:
        """A newly compiled model, or what equals one."""
        if self._fresh is None:
            before = _generator_state()
            self.environment._load_model()
            self.environment._initialize_sim()
            self._fresh = _Fresh(self.environment, draws=_generator_state() != before)
        elif not self._fresh.draws:
            self._fresh.restore()
        else:
            self._load_drawn(self._fresh)

    def _load_drawn(self, fresh: _Fresh) -> None:
        """Load a model that robosuite draws: as far as it is the same as before, it is not compiled again."""
        self.environment._load_model()
        description = fresh.describe(self.environment)
        try:
            fresh.become(description)
        except CannotPatch:
            self.environment._initialize_sim()
            self._fresh = _Fresh(self.environment, draws=True)

    def _connect(self) -> None:
        """Look up once what robosuite looks up by name at every substep."""
        robot, model = self.environment.robots[0], self.environment.sim.model
        self._substeps = Substeps(self.environment) if Substeps.fit(self.environment) else None
        self._effector_site = robot.eef_site_id
        self._effector_body = model.body_name2id(robot.robot_model.eef_name)
        self._gripper_joints = list(robot._ref_gripper_joint_pos_indexes or [])

        self._windows = {name: getattr(self.data, name) for name in _SCENE}
        self._windows |= {name: getattr(self.model, name) for name in _COLOURS}
        self._kept = {name: np.empty_like(window) for name, window in self._windows.items()}

    def _take_sample(self) -> None:
        data = self.data
        for name, window in self._windows.items():
            np.copyto(self._kept[name], window)
        x, y, z = 1, 2, 3
        self._sample = Sample(
            scene={name: self._kept[name] for name in _SCENE},
            colours={name: self._kept[name] for name in _COLOURS},
            effector_position=data.site_xpos[self._effector_site].copy(),
            effector_quaternion=data.xquat[self._effector_body][[x, y, z, 0]],
            gripper_position=data.qpos[self._gripper_joints],
        )


class _Fresh:
    """A newly compiled environment: MuJoCo's state, the model's numbers, and what Python objects remember.

    Attributes:
        draws: Loading the model draws random numbers, so that it has to be loaded, if not compiled, at each reset.
    """

    def __init__(self, environment: RobotEnv, draws: bool) -> None:
        import mujoco

        self.draws = draws
        self._model, self._live = environment.sim.model._model, environment.sim.data._data
        self._data = mujoco.MjData(self._model)
        mujoco.mj_copyData(self._data, self._model, self._live)
        self._numbers = {
            name: value.copy() for name, value in _arrays(self._model).items() if value.size <= _LARGEST_RESTORED
        }
        robots = list(environment.robots)
        self._objects = [(one, _copied(vars(one))) for robot in robots for one in (robot, robot.gripper)]
        self._description = self.describe(environment)
        self._skeleton: mujoco.MjModel | None = None

    @staticmethod
    def describe(environment: RobotEnv) -> str:
        """The XML that the model is compiled from."""
        text: str = environment.model.get_xml()
        return text if environment._xml_processor is None else environment._xml_processor(text)

    def restore(self) -> None:
        """Put everything back."""
        self._restore_simulation()
        for one, attributes in self._objects:
            vars(one).clear()
            vars(one).update(_copied(attributes))

    def become(self, description: str) -> None:
        """Make the simulation what compiling this description would give; Python's objects have been made anew.

        Raises:
            CannotPatch: It has to be compiled.
        """
        import mujoco

        self._restore_simulation()
        if description == self._description:
            return
        if self._skeleton is None:
            self._skeleton = skeleton(self._description)
        patch(self._model, self._skeleton, skeleton(description))
        mujoco.mj_resetData(self._model, self._live)
        mujoco.mj_forward(self._model, self._live)

    def _restore_simulation(self) -> None:
        import mujoco

        live = _arrays(self._model)
        for name, value in self._numbers.items():
            live[name][...] = value
        mujoco.mj_copyData(self._live, self._model, self._data)


def _generator_state() -> str:
    return repr(np.random.get_state(legacy=False))


def _arrays(model: mujoco.MjModel) -> dict[str, NDArray[Any]]:
    names = [name for name in dir(model) if not name.startswith("_")]
    values = {name: getattr(model, name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.flags.writeable}


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """One level deep: the attributes that an episode changes are numbers and arrays."""
    return {
        name: value.copy() if isinstance(value, np.ndarray | list | dict) else value
        for name, value in attributes.items()
    }

"""Meta-World's env step and reset at little more than the cost of their physics, bit for bit.

The stock env step spends most of its time around the physics. Here a step is: move the hand's target, simulate, and let
Meta-World's own functions compute observation and reward (see `vla_cl.envs.metaworld_evaluation`). What is left out has
no effect: contact forces that nobody reads, and site positions that are computed anew right away.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.metaworld_evaluation import make_evaluator

if TYPE_CHECKING:
    import mujoco
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

_ORIENTATION = (1.0, 0.0, 1.0, 0.0)  # of the hand's target, never changed by an action
_OBJECT_NUMBERS = 14
_REMEMBERED_HAND_RESETS = 4
_GRIPPER_RANGE = 0.1  # metres between the fingers that Meta-World calls open


class FastSimulation:
    """Steps a stock simulation quickly. The simulation stays usable by itself, between two steps."""

    def __init__(self, simulation: SawyerXYZEnv) -> None:
        """Attach to a simulation; its resets become quicker as well."""
        import mujoco

        data = simulation.data
        self._simulation = simulation
        self._evaluator = make_evaluator(simulation)
        self._mujoco = mujoco
        self._target = data.mocap_pos[0]
        self._orientation = data.mocap_quat[0]
        self._control = data.ctrl
        self._hand = data.body("hand").xpos
        self._right, self._left = data.body("rightclaw").xpos, data.body("leftclaw").xpos
        self._low, self._high = simulation.mocap_low.tolist(), simulation.mocap_high.tolist()
        simulation.__dict__["_hand_resets"] = _HandResets(simulation)
        simulation.__dict__["_current_observation"] = self._current_observation
        simulation.__class__ = _quick_class(type(simulation))  # type: ignore[arg-type]

    def close(self) -> None:
        """Break the circle of references, so that the simulation's memory is freed at once; no step after that."""
        for key in ("_hand_resets", "_current_observation", "_view_of_data"):
            self._simulation.__dict__.pop(key, None)

    def displacements(self, actions: NDArray[np.float32]) -> list[list[float]]:
        """How far each action, shape (K, 4), moves the hand's target along x, y and z, in metres."""
        moves: list[list[float]] = (np.clip(actions[:, :3], -1, 1) * self._simulation.action_scale).tolist()
        return moves

    def step(
        self, action: NDArray[np.float32], displacement: list[float], follows_a_step: bool
    ) -> tuple[NDArray[np.float64], float, bool]:
        """Execute one action, shape (4,).

        Args:
            action: As Meta-World's ``step`` takes it.
            displacement: Its row of `displacements`.
            follows_a_step: Nothing has touched the simulation since the previous call.

        Returns:
            Meta-World's observation, float64 (39,), its reward and whether the task is solved.
        """
        simulation = self._simulation
        if simulation.curr_path_length >= simulation.max_path_length:
            raise ValueError("Meta-World's time limit is over; call reset")
        (x, y, z), (move_x, move_y, move_z) = self._target.tolist(), displacement
        (low_x, low_y, low_z), (high_x, high_y, high_z) = self._low, self._high
        self._target[:] = (
            min(max(x + move_x, low_x), high_x),
            min(max(y + move_y, low_y), high_y),
            min(max(z + move_z, low_z), high_z),
        )
        self._orientation[:] = _ORIENTATION
        self._control[:] = (action[3], -action[3])
        self._simulate(follows_a_step)
        simulation.curr_path_length += 1
        observation = self._observe()
        reward, info = self._evaluator.evaluate_state(observation, action)
        return observation, float(reward), bool(info["success"])

    def _simulate(self, follows_a_step: bool) -> None:
        """The physics of an env step, then positions and contacts where it ended."""
        mujoco, model, data = self._mujoco, self._simulation.model, self._simulation.data
        substeps = self._simulation.frame_skip
        if follows_a_step:
            # The previous step ended with `mj_forward`. Only the hand's target has moved since, so of all that depends
            # on positions only the weld to it is due.
            mujoco.mj_checkPos(model, data)
            mujoco.mj_checkVel(model, data)
            mujoco.mj_kinematics(model, data)
            mujoco.mj_makeConstraint(model, data)
            mujoco.mj_island(model, data)
            mujoco.mj_projectConstraint(model, data)
            mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_POS.value, 0)
            mujoco.mj_checkAcc(model, data)
            mujoco.mj_Euler(model, data)
            substeps -= 1
        mujoco.mj_step(model, data, nstep=substeps)
        mujoco.mj_forward(model, data)

    def _observe(self) -> NDArray[np.float64]:
        """Meta-World's observation, float64 (39,), inside its bounds."""
        simulation = self._simulation
        current = self._current_observation()
        goal = self._evaluator._get_pos_goal()
        if simulation._partially_observable:
            goal = np.zeros_like(goal)
        space = simulation.sawyer_observation_space
        stacked: NDArray[np.float64] = np.concatenate((current, simulation._prev_obs, goal))
        simulation._prev_obs = current
        np.maximum(stacked, space.low, out=stacked)
        np.minimum(stacked, space.high, out=stacked)
        simulation._last_stable_obs = stacked
        return stacked

    def _current_observation(self) -> NDArray[np.float64]:
        """Hand, gripper and objects, float64 (18,): what ``_get_curr_obs_combined_no_goal`` gives."""
        positions = self._evaluator._get_pos_objects()
        quaternions = self._evaluator._get_quat_objects()
        apart = self._right - self._left
        current = np.zeros(4 + _OBJECT_NUMBERS)
        current[:3] = self._hand
        current[3] = min(max(math.sqrt(apart.dot(apart)) / _GRIPPER_RANGE, 0.0), 1.0)
        current[4:7] = positions[:3]
        current[7:11] = quaternions[:4]
        if len(positions) > 3:
            current[11:14] = positions[3:]
            current[14:18] = quaternions[4:]
        return current


@cache
def _quick_class(simulation_class: type[SawyerXYZEnv]) -> type[SawyerXYZEnv]:
    """A task's class with two inherited methods exchanged, the ones that make a reset slow."""
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

    class Quick(SawyerXYZEnv):  # type: ignore[misc]
        def _reset_hand(self, steps: int = 50) -> None:
            self._hand_resets.run(steps)
            self.init_tcp = self.tcp_center

        def _get_curr_obs_combined_no_goal(self) -> NDArray[np.float64]:
            current: NDArray[np.float64] = self._current_observation()
            return current

    # between the task's class and its base, so that what the task itself overrides stays in force
    return type(simulation_class.__name__, (simulation_class, Quick), {})


class _HandResets:
    """The first part of a reset: 250 steps of physics that draw the hand to where a task begins.

    They start from few different worlds (from one, in half of the tasks), so their outcome is kept.
    """

    def __init__(self, simulation: SawyerXYZEnv) -> None:
        self._simulation = simulation
        self._outcomes: OrderedDict[tuple[object, ...], tuple[mujoco.MjData, NDArray[np.float64]]] = OrderedDict()

    def run(self, steps: int) -> None:
        """Do what ``SawyerXYZEnv._reset_hand`` does to the physics in so many env steps."""
        import mujoco

        model, data = self._simulation.model, self._simulation.data
        data.mocap_pos[0] = self._simulation.hand_init_pos
        data.mocap_quat[0] = _ORIENTATION
        data.ctrl[:] = (-1, 1)
        key = self._world(steps)
        if key in self._outcomes:
            self._outcomes.move_to_end(key)
            outcome, sites = self._outcomes[key]
            mujoco.mj_copyData(data, model, outcome)
            self._place_sites(sites)
            return
        mujoco.mj_step(model, data, nstep=steps * self._simulation.frame_skip)
        if len(self._outcomes) == _REMEMBERED_HAND_RESETS:
            outcome, _ = self._outcomes.popitem(last=False)[1]
        else:
            outcome = mujoco.MjData(model)
        mujoco.mj_copyData(outcome, model, data)
        self._outcomes[key] = (outcome, model.site_pos.copy())

    def _world(self, steps: int) -> tuple[object, ...]:
        """All that the outcome depends on and that a reset changes, except for where sites hang on their bodies."""
        import mujoco

        model, data = self._simulation.model, self._simulation.data
        kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
        state = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, state, kind)
        return steps, state.tobytes(), model.body_pos.tobytes(), model.body_quat.tobytes()

    def _place_sites(self, previous: NDArray[np.float64]) -> None:
        """Put sites that have been moved on their bodies since the outcome was kept where physics would."""
        import mujoco

        model, data = self._simulation.model, self._simulation.data
        for site in np.flatnonzero((model.site_pos != previous).any(axis=1)):
            mujoco.mj_local2Global(
                data,
                data.site_xpos[site],
                data.site_xmat[site],
                model.site_pos[site],
                model.site_quat[site],
                model.site_bodyid[site],
                model.site_sameframe[site],
            )

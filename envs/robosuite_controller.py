"""The operational-space controller of robosuite 1.4 at the substeps where nothing new is asked of it.

A control step tells the controller its goal once and then has it compute torques at every substep of the simulation.
Robosuite's own code takes the goal; the torques are computed here by the same arithmetic, operation by operation and
with robosuite's own compiled functions, on names that were looked up once. They are equal bit for bit, and so is all
that the robot and the controller remember at the end of the step.

Khatib 1987, "A unified approach for motion and force control of robot manipulators".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from robosuite.environments.robot_env import RobotEnv


_TENTHS = np.ones(10) / 10.0  # robosuite averages the last ten changes of velocity


class Substeps:
    """One arm under ``OSC_POSE``, with a Panda's gripper or none that moves; make a new one after each reset."""

    def __init__(self, environment: RobotEnv) -> None:
        """Look everything up."""
        from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error
        from robosuite.utils.transform_utils import mat2quat

        self._functions = orientation_error, opspace_matrices, nullspace_torques
        self._quaternion = mat2quat
        self._environment, self._action_size = environment, environment.action_dim
        robot = environment.robots[0]
        self._robot, self._controller, self._gripper = robot, robot.controller, robot.gripper
        model = environment.sim.model
        self._model, self._data = model._model, environment.sim.data._data
        self._site = model.site_name2id(self._controller.eef_name)
        self._look_at_simulation()
        self._make_arrays(model.nv)
        self._torque_low, self._torque_high = robot.torque_limits
        actuators = [int(model.actuator_name2id(name)) for name in self._gripper.actuators]
        self._fingers = [_Finger(number, *model.actuator_ctrlrange[number].tolist()) for number in actuators]
        self._force_and_torque = [self._sensor(name) for name in ("force_ee", "torque_ee")]

    def _look_at_simulation(self) -> None:
        """Windows into the simulation's state that stay valid as long as the simulation does."""
        data, controller = self._data, self._controller
        velocities = _run(controller.qvel_index)
        self._velocity = data.qvel
        self._site_position = data.site_xpos[self._site]
        self._site_rotation = data.site_xmat[self._site].reshape(3, 3)
        self._joint_position = data.qpos[_run(controller.qpos_index)]
        self._joint_velocity = data.qvel[velocities]
        self._bias = data.qfrc_bias[velocities]
        self._arm_control = data.ctrl[_run(self._robot._ref_joint_actuator_indexes)]
        self._control = data.ctrl

    def _sensor(self, name: str) -> NDArray[np.float64]:
        """Where a sensor of the hand writes."""
        number = self._environment.sim.model.sensor_name2id(self._gripper.important_sensors[name])
        start, size = self._model.sensor_adr[number], self._model.sensor_dim[number]
        measured: NDArray[np.float64] = self._data.sensordata[start : start + size]
        return measured

    def _make_arrays(self, velocities: int) -> None:
        """What every substep writes anew; in robosuite's memory order, or sums would be rounded otherwise."""
        joints = _run(self._controller.qvel_index)
        count = len(self._controller.qvel_index)
        self._jacobian = np.zeros((6, velocities))
        self._jacobian_halves = self._jacobian[:3], self._jacobian[3:]
        self._arm_jacobian = self._jacobian[:, joints]
        self._changes = np.zeros((len(_TENTHS), 6))
        self._whole_mass_matrix = np.zeros((velocities, velocities))
        self._arm_mass_matrix = self._whole_mass_matrix[joints, joints]
        self._mass_matrix = np.zeros((count, count), order="F")
        self._j_pos, self._j_ori = np.zeros((3, count), order="F"), np.zeros((3, count), order="F")
        self._j_full = np.zeros((6, count), order="F")
        self._j_full_halves = self._j_full[:3], self._j_full[3:]
        self._j_full_transposed = self._j_full.T
        self._speed, self._error, self._force, self._wrench = (_Twist() for _ in range(4))

    @staticmethod
    def fit(environment: RobotEnv) -> bool:
        """Whether these are the controller and the gripper that are meant here."""
        from robosuite.controllers.osc import OperationalSpaceController
        from robosuite.models.grippers.panda_gripper import PandaGripper

        if len(environment.robots) != 1:
            return False
        robot = environment.robots[0]
        controller = robot.controller
        indices = (controller.qpos_index, controller.qvel_index, robot._ref_joint_actuator_indexes)
        return (
            type(controller) is OperationalSpaceController
            and (type(robot.gripper) is PandaGripper or not robot.gripper.actuators)
            and controller.impedance_mode == "fixed"
            and controller.uncoupling
            and controller.interpolator_pos is None
            and controller.interpolator_ori is None
            and all(list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))) for numbers in indices)
        )

    def begin(self, action: NDArray[np.float32]) -> None:
        """The first substep of a control step: a new goal, torques towards it, and what the robot remembers of it."""
        controller = self._controller
        if not controller.new_update:  # as after a reset: robosuite's first substep uses what it knew then
            self._environment._pre_action(action, policy_step=True)
            self._aim(action)
            return
        if len(action) != self._action_size:
            raise ValueError(f"an action is {self._action_size} numbers, got {len(action)}")
        self._measure()
        self._hand_over()
        controller.new_update = False
        controller.set_goal(action[: controller.control_dim])
        self._aim(action)
        self._act(self._torques(), last=True)
        self._remember(action)

    def _aim(self, action: NDArray[np.float32]) -> None:
        """What stays as it is during a control step; see robosuite's ``PandaGripper`` for the fingers."""
        for finger, direction, goal in zip(self._fingers, (-1.0, 1.0), self._gripper.current_action, strict=False):
            command = float(action[self._controller.control_dim])
            finger.speed = direction * self._gripper.speed * ((command > 0) - (command < 0))
            finger.goal = float(goal)
        self._goal_position, self._goal_rotation = self._controller.goal_pos, self._controller.goal_ori
        self._stiffness, self._damping = self._controller.kp, -self._controller.kd
        self._rest = self._controller.initial_joint

    def proceed(self, last: bool) -> None:
        """Another substep.

        Args:
            last: This is the control step's last substep: leave the controller as robosuite would.
        """
        self._measure()
        if last:
            self._hand_over()
        self._act(self._torques(), last)

    def _act(self, torques: NDArray[np.float64], last: bool) -> None:
        """Write the torques and the gripper's goal of this substep to the simulation."""
        np.minimum(np.maximum(torques, self._torque_low), self._torque_high, out=self._arm_control)
        if last:
            self._controller.torques, self._controller.new_update = torques, True
            self._robot.torques = self._arm_control.copy()
        for finger in self._fingers:
            finger.move(self._control)
        if last and self._fingers:
            self._gripper.current_action = np.array([finger.goal for finger in self._fingers])

    def _remember(self, action: NDArray[np.float32]) -> None:
        """What robosuite's robot keeps of each control step, in its own buffers."""
        robot, speed = self._robot, self._speed.both
        robot.recent_qpos.push(self._joint_position)
        robot.recent_actions.push(action)
        robot.recent_torques.push(robot.torques)
        robot.recent_ee_forcetorques.push(np.concatenate(self._force_and_torque))
        robot.recent_ee_pose.push(np.concatenate((self._site_position, self._quaternion(self._site_rotation))))
        robot.recent_ee_vel.push(speed)
        robot.recent_ee_vel_buffer.push(speed)
        speeds, changes = robot.recent_ee_vel_buffer.buf, self._changes
        changes[0] = robot.recent_ee_acc.current
        np.subtract(speeds[1:], speeds[:-1], out=changes[1:])
        changes[1:] *= robot.control_freq
        robot.recent_ee_acc.push([np.convolve(column, _TENTHS, mode="valid")[0] for column in changes.T])

    def _measure(self) -> None:
        """Jacobians, velocities and the mass matrix of the simulation as it is."""
        import mujoco

        translation, rotation = self._jacobian_halves
        mujoco.mj_jacSite(self._model, self._data, translation, rotation, self._site)
        self._j_full[...] = self._arm_jacobian
        self._j_pos[...], self._j_ori[...] = self._j_full_halves
        mujoco.mj_fullM(self._model, self._whole_mass_matrix, self._data.qM)
        self._mass_matrix[...] = self._arm_mass_matrix
        np.dot(translation, self._velocity, out=self._speed.linear)
        np.dot(rotation, self._velocity, out=self._speed.angular)

    def _hand_over(self) -> None:
        """Tell robosuite's controller what was measured."""
        controller = self._controller
        controller.J_pos, controller.J_ori, controller.J_full = (
            array.copy(order="K") for array in (self._j_pos, self._j_ori, self._j_full)
        )
        controller.mass_matrix = self._mass_matrix.copy(order="K")
        controller.ee_pos, controller.ee_ori_mat = self._site_position.copy(), self._site_rotation.copy()
        controller.ee_pos_vel, controller.ee_ori_vel = self._speed.linear.copy(), self._speed.angular.copy()
        controller.joint_pos, controller.joint_vel = self._joint_position.copy(), self._joint_velocity.copy()

    def _torques(self) -> NDArray[np.float64]:
        orientation_error, opspace_matrices, nullspace_torques = self._functions
        error, force, wrench = self._error, self._force, self._wrench
        np.subtract(self._goal_position, self._site_position, out=error.linear)
        error.angular[:] = orientation_error(self._goal_rotation, self._site_rotation)
        np.multiply(error.both, self._stiffness, out=force.both)
        force.both += self._speed.both * self._damping
        _, lambda_pos, lambda_ori, nullspace = opspace_matrices(
            self._mass_matrix, self._j_full, self._j_pos, self._j_ori
        )
        np.dot(lambda_pos, force.linear, out=wrench.linear)
        np.dot(lambda_ori, force.angular, out=wrench.angular)
        torques: NDArray[np.float64] = np.dot(self._j_full_transposed, wrench.both) + self._bias
        torques += nullspace_torques(
            self._mass_matrix, nullspace, self._rest, self._joint_position, self._joint_velocity
        )
        return torques


class _Finger:
    """A finger's goal, from -1 to 1, that a Panda's gripper moves at constant speed; plain floats, which are quick."""

    def __init__(self, actuator: int, low: float, high: float) -> None:
        self._actuator = actuator
        self._middle, self._half = 0.5 * (high + low), 0.5 * (high - low)
        self.goal = self.speed = 0.0

    def move(self, control: NDArray[np.float64]) -> None:
        """One substep."""
        self.goal = min(max(self.goal + self.speed, -1.0), 1.0)
        control[self._actuator] = self._middle + self._half * self.goal


class _Twist:
    """Six numbers, three of translation and three of rotation, and windows to each half."""

    def __init__(self) -> None:
        self.both = np.zeros(6)
        self.linear, self.angular = self.both[:3], self.both[3:]


def _run(indices: Sequence[int]) -> slice:
    """Indices that follow one another, as `Substeps.fit` has made sure, as a slice: a window instead of a copy."""
    return slice(int(indices[0]), int(indices[0]) + len(indices))

"""The operational-space controller of robosuite 1.4 at the substeps where nothing new is asked of it.

A control step tells the controller its goal once and then has it compute torques at every substep of the simulation.
At the first substep robosuite's own code runs; at the others this does the same arithmetic, operation by operation and
with robosuite's own compiled functions, on names that were looked up once. The torques are equal bit for bit.

Khatib 1987, "A unified approach for motion and force control of robot manipulators".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from robosuite.environments.robot_env import RobotEnv


class Substeps:
    """One Panda arm under ``OSC_POSE``; make a new one after each reset."""

    def __init__(self, environment: RobotEnv) -> None:
        """Look everything up."""
        from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

        self._functions = orientation_error, opspace_matrices, nullspace_torques
        robot = environment.robots[0]
        self._robot, self._controller, self._gripper = robot, robot.controller, robot.gripper
        model = environment.sim.model
        self._model, data = model._model, environment.sim.data._data
        self._data = data
        self._site = model.site_name2id(self._controller.eef_name)
        self._site_position = data.site_xpos[self._site]
        self._site_rotation = data.site_xmat[self._site].reshape(3, 3)
        self._velocity, self._position = data.qvel, data.qpos
        self._bias, self._control = data.qfrc_bias, data.ctrl
        self._jacobians = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._mass_matrix = np.zeros((model.nv, model.nv))
        self._joint_positions = np.array(self._controller.qpos_index)
        self._joint_velocities = np.array(self._controller.qvel_index)
        self._torque_low, self._torque_high = robot.torque_limits
        self._arm_actuators = np.array(robot._ref_joint_actuator_indexes)
        self._gripper_actuators = np.array([model.actuator_name2id(name) for name in self._gripper.actuators])
        limits = model.actuator_ctrlrange[self._gripper_actuators]
        self._gripper_bias = 0.5 * (limits[:, 1] + limits[:, 0])
        self._gripper_weight = 0.5 * (limits[:, 1] - limits[:, 0])

    @staticmethod
    def fit(environment: RobotEnv) -> bool:
        """Whether this is the robot and the controller that are meant here."""
        from robosuite.controllers.osc import OperationalSpaceController
        from robosuite.models.grippers.panda_gripper import PandaGripper

        if len(environment.robots) != 1:
            return False
        robot = environment.robots[0]
        controller = robot.controller
        return (
            type(controller) is OperationalSpaceController
            and type(robot.gripper) is PandaGripper
            and controller.impedance_mode == "fixed"
            and controller.uncoupling
            and controller.interpolator_pos is None
            and controller.interpolator_ori is None
        )

    def update(self) -> None:
        """The controller's ``update``, whose own ``sim.forward()`` would repeat the one just done."""
        controller = self._controller
        if not controller.new_update:  # as after a reset: robosuite's first substep uses what it knew then
            return
        (
            controller.J_pos,
            controller.J_ori,
            controller.J_full,
            controller.ee_pos_vel,
            controller.ee_ori_vel,
            controller.mass_matrix,
            controller.joint_pos,
            controller.joint_vel,
        ) = self._measure()
        controller.ee_pos = self._site_position.copy()
        controller.ee_ori_mat = self._site_rotation.copy()
        controller.new_update = False

    def opening(self, action: NDArray[np.float32]) -> NDArray[np.float64]:
        """How far the gripper's goal moves at each substep of a control step, float64 (2,)."""
        command = action[self._controller.control_dim :]
        opening: NDArray[np.float64] = np.array([-1.0, 1.0]) * self._gripper.speed * np.sign(command)
        return opening

    def control(self, opening: NDArray[np.float64], last: bool) -> None:
        """Write the torques and the gripper's goal of this substep to the simulation.

        Args:
            opening: What `opening` gave.
            last: This is the control step's last substep: leave the controller as robosuite would.
        """
        torques = self._torques()
        if last:
            self.update()
            self._controller.torques, self._controller.new_update = torques, True
        self._control[self._arm_actuators] = np.minimum(np.maximum(torques, self._torque_low), self._torque_high)
        moved = np.minimum(np.maximum(self._gripper.current_action + opening, -1.0), 1.0)
        self._gripper.current_action = moved
        self._control[self._gripper_actuators] = self._gripper_bias + self._gripper_weight * moved

    def _torques(self) -> NDArray[np.float64]:
        orientation_error, opspace_matrices, nullspace_torques = self._functions
        controller = self._controller
        j_pos, j_ori, j_full, pos_velocity, ori_velocity, mass_matrix, joint_pos, joint_vel = self._measure()
        kp, kd = controller.kp, controller.kd
        ori_error = orientation_error(controller.goal_ori, self._site_rotation)
        force = (controller.goal_pos - self._site_position) * kp[:3] + -pos_velocity * kd[:3]
        torque = ori_error * kp[3:6] + -ori_velocity * kd[3:6]
        _, lambda_pos, lambda_ori, nullspace = opspace_matrices(mass_matrix, j_full, j_pos, j_ori)
        wrench = np.concatenate((np.dot(lambda_pos, force), np.dot(lambda_ori, torque)))
        torques: NDArray[np.float64] = np.dot(j_full.T, wrench) + self._bias[self._joint_velocities]
        torques += nullspace_torques(mass_matrix, nullspace, controller.initial_joint, joint_pos, joint_vel)
        return torques

    def _measure(self) -> tuple[NDArray[np.float64], ...]:
        """Jacobians, velocities, mass matrix, joints; memory order as in robosuite, or sums would be rounded anew."""
        import mujoco

        translation, rotation = self._jacobians
        mujoco.mj_jacSite(self._model, self._data, translation, rotation, self._site)
        joints = self._joint_velocities
        j_pos, j_ori = translation[:, joints], rotation[:, joints]
        mujoco.mj_fullM(self._model, self._mass_matrix, self._data.qM)
        return (
            j_pos,
            j_ori,
            np.concatenate((j_pos, j_ori)),
            np.dot(translation, self._velocity),
            np.dot(rotation, self._velocity),
            self._mass_matrix[joints, :][:, joints],
            self._position[self._joint_positions],
            self._velocity[joints],
        )

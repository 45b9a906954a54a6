"""Rows: resetting to a state, against the hard reset of the suite's own library.

Timed is the reset alone; neither side draws a picture. Pictures are compared beside it, at the same states.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.bench.costs import seconds_of
from vla_cl.bench.measuring import ratio, readable, say, take_turns
from vla_cl.bench.rows import Figure, Gate, Result, RowSettings
from vla_cl.bench.suites import libero_suite, robosuite_suite
from vla_cl.interfaces import Environment

GOAL = 7.0
EQUAL = "every byte of qpos, qvel, ctrl, act, warm start, time, controller and gripper, and of both pictures"
_DATA = ("qpos", "qvel", "ctrl", "act", "qacc_warmstart", "mocap_pos", "xfrc_applied", "qfrc_applied")
_CONTROLLER = ("goal_pos", "goal_ori", "ee_pos", "ee_ori_mat", "initial_joint", "torques", "joint_pos", "mass_matrix")


@dataclass(frozen=True)
class Pair:
    """One task on both sides.

    Attributes:
        name: For people.
        ours: Our environment.
        our_world: The robosuite environment inside it.
        reset_theirs: Hard reset of the library's environment to a state; draws nothing.
        their_world: That environment.
        their_pictures: Pictures at a state after a hard reset of an environment that draws, by feature key.
        drawn: Seconds of each call of ``their_pictures``, filled by it.
    """

    name: str
    ours: Environment
    our_world: Any
    reset_theirs: Callable[[int], object]
    their_world: Any
    their_pictures: Callable[[int], Mapping[str, NDArray[np.uint8]]]
    drawn: list[float]


def robosuite_reset(settings: RowSettings) -> Result:
    """``Robosuite``'s reset against ``np.random.seed(...)`` and robosuite's own."""
    names = ["lift"] if settings.quick else ["lift", "door", "pick-place-can"]
    states = range(1000, 1002 if settings.quick else 1012)
    return _compare("robosuite", [_robosuite_pair(name) for name in names], states)


def libero_reset(settings: RowSettings) -> Result:
    """``Libero``'s reset against that of hf-libero's ``ControlEnv``, stored state and settling steps included."""
    suites = ["libero_object"] if settings.quick else ["libero_object", "libero_goal"]
    states = range(2 if settings.quick else 10)
    return _compare("LIBERO", [_libero_pair(suite, settings) for suite in suites], states)


def _robosuite_pair(name: str) -> Pair:
    from vla_cl.envs.robosuite import CAMERAS, FPS, build_simulation, quiet
    from vla_cl.envs.robosuite_core import global_seed
    from vla_cl.envs.robosuite_tasks import TASKS

    suite = robosuite_suite(image_size=84, render_profile="reference")
    ours: Any = suite.make_environment(next(task for task in suite.tasks() if task.name == name))
    robosuite_name = TASKS[name][0]
    theirs = build_simulation(robosuite_name)
    drawing: list[Any] = []
    drawn: list[float] = []

    def reset(environment: Any, state: int) -> Any:  # noqa: ANN401 - robosuite's
        with global_seed(state):
            return environment.reset()

    def pictures(state: int) -> Mapping[str, NDArray[np.uint8]]:
        import robosuite

        if not drawing:
            with quiet():
                drawing.append(
                    robosuite.make(
                        robosuite_name,
                        robots="Panda",
                        controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
                        has_renderer=False,
                        has_offscreen_renderer=True,
                        use_camera_obs=True,
                        camera_names=list(CAMERAS.values()),
                        camera_heights=84,
                        camera_widths=84,
                        control_freq=FPS,
                        hard_reset=True,
                    )
                )
        began = time.perf_counter()
        seen = reset(drawing[0], state)
        drawn.append(time.perf_counter() - began)
        return {key: seen[f"{camera}_image"][::-1] for key, camera in CAMERAS.items()}

    return Pair(name, ours, ours.core.environment, lambda state: reset(theirs, state), theirs, pictures, drawn)


def _libero_pair(suite_name: str, settings: RowSettings) -> Pair:
    suite: Any = libero_suite(suite_name, settings, image_size=128, render_profile="reference")
    task = suite.tasks()[0]
    ours: Any = suite.make_environment(task)
    from lerobot.envs.libero import LiberoEnv, get_libero_dummy_action
    from libero.libero import benchmark
    from libero.libero.envs.env_wrapper import ControlEnv

    from vla_cl.envs.libero import FIRST_SEED, FPS
    from vla_cl.envs.libero_catalog import initial_states_file, problem_file, task_names
    from vla_cl.envs.libero_initial_states import read_initial_states

    stored = read_initial_states(initial_states_file(suite_name, task.name))
    theirs = ControlEnv(
        str(problem_file(suite_name, task.name)),
        use_camera_obs=False,
        has_offscreen_renderer=False,
        control_freq=FPS,
        hard_reset=True,
    )
    theirs.reset()  # as LeRobot's wrapper does before its first episode
    position = task_names(suite_name).index(task.name)
    drawing: list[Any] = []
    drawn: list[float] = []

    def reset(state: int) -> None:
        theirs.seed(FIRST_SEED + state)
        theirs.reset()
        theirs.set_init_state(stored[state])
        for _ in range(10):
            theirs.step(get_libero_dummy_action())

    def pictures(state: int) -> Mapping[str, NDArray[np.uint8]]:
        if not drawing:
            benchmark_suite = benchmark.get_benchmark_dict()[suite_name]()
            size = {"observation_width": 128, "observation_height": 128}
            drawing.append(LiberoEnv(benchmark_suite, position, suite_name, obs_type="pixels", **size))
            drawing[0]._ensure_env()
        drawing[0].init_state_id = state
        began = time.perf_counter()
        seen = drawing[0].reset(seed=FIRST_SEED + state)[0]["pixels"]
        drawn.append(time.perf_counter() - began)
        return {f"observation.images.{key}": picture[::-1, ::-1] for key, picture in seen.items()}

    return Pair(f"{suite_name}/{task.name}", ours, ours.core.environment, reset, theirs.env, pictures, drawn)


def _compare(suite: str, pairs: Sequence[Pair], states: Sequence[int]) -> Result:
    """Each state in each task is a turn; the gate looks at every one of them."""
    differences: list[str] = []
    for pair in pairs:
        pair.ours.reset(states[0])  # builds what is kept; the peer keeps nothing

    def both(state: int) -> None:
        for pair in pairs:
            differences.extend(f"{pair.name}, state {state}: {text}" for text in _different(pair, state))

    def timed(reset: Callable[[Pair, int], object]) -> Callable[[int], float]:
        def measure(turn: int) -> float:
            began = time.perf_counter()
            for pair in pairs:
                reset(pair, states[turn])
            seconds = (time.perf_counter() - began) / len(pairs)
            if reset is theirs:
                both(states[turn])
            return seconds

        return measure

    def ours(pair: Pair, state: int) -> None:
        pair.ours.reset(state)

    def theirs(pair: Pair, state: int) -> None:
        pair.reset_theirs(state)

    seconds = take_turns({"ours": timed(ours), "hard reset": timed(theirs)}, len(states))
    say("comparing pictures")
    differences += _different_pictures(pairs, states[: min(3, len(states))])
    found = ratio(seconds["ours"], seconds["hard reset"])
    mine, other = float(np.median(seconds["ours"])), float(np.median(seconds["hard reset"]))
    observe = seconds_of(pairs[0].ours.observe)
    whole = float(np.median([one for pair in pairs for one in pair.drawn]))
    gate = Gate(EQUAL, not differences, differences[0] if differences else f"{len(pairs)} tasks, {len(states)} states")
    return Result(
        compares=f"{suite}: reset to a state, against the library's own hard reset, neither with pictures",
        gate=gate,
        ratio=found,
        figures=[
            Figure("ours", round(1e3 * mine, 2), "ms"),
            Figure("hard reset", round(1e3 * other, 2), "ms"),
            Figure("hard reset that draws", round(1e3 * whole, 2), "ms"),
        ],
        holds=gate.passed and found.median >= GOAL,
        profile={"reset": readable(mine), "both pictures, if wanted": readable(observe)},
        notes="A hard reset that draws takes a picture in each settling step as well." if suite == "LIBERO" else "",
    )


def _different(pair: Pair, state: int) -> list[str]:
    """Names of what differs between the two worlds as they stand."""
    one, two = world_state(pair.our_world), world_state(pair.their_world)
    return [name for name in one if one[name] != two[name]]


def _different_pictures(pairs: Sequence[Pair], states: Sequence[int]) -> list[str]:
    """All of theirs first: when robosuite frees a GL context, it frees what belongs to whichever is current."""
    theirs = {(pair.name, state): pair.their_pictures(state) for pair in pairs for state in states}
    found = []
    for pair in pairs:
        for state in states:
            pair.ours.reset(state)
            ours, other = pair.ours.observe().images, theirs[pair.name, state]
            found += [
                f"{pair.name}, state {state}: picture {key}"
                for key in ours
                if not np.array_equal(ours[key], other[key])
            ]
    return found


def world_state(environment: Any) -> dict[str, bytes]:  # noqa: ANN401 - a robosuite environment
    """Every byte of what decides how a robosuite world goes on."""
    data, robot = environment.sim.data._data, environment.robots[0]
    found = {name: np.asarray(getattr(data, name)).tobytes() for name in _DATA}
    for name in _CONTROLLER:
        value = getattr(robot.controller, name)
        found[name] = b"" if value is None else np.asarray(value, dtype=np.float64).tobytes()
    found["gripper"] = np.asarray(getattr(robot.gripper, "current_action", 0), dtype=np.float64).tobytes()
    found["time"] = np.float64(data.time).tobytes()
    return found

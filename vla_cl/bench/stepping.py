"""Rows: env steps without pictures, one core each."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.bench.measuring import ratio, readable, take_turns
from vla_cl.bench.rows import Figure, Gate, Result, RowSettings
from vla_cl.bench.suites import metaworld_suite, robosuite_suite

TOLERANCE = 1e-9
STATE = 1000
CHUNK = 50


@dataclass(frozen=True)
class Pair:
    """One task on both sides.

    Attributes:
        name: For people.
        action_size: Numbers of an action.
        reset: Both sides to the same state.
        ours: Executes actions (K, A); rewards (fewer than K if the episode ends) and the observation after them.
        theirs: The same with the library's own steps.
        floor: The physics alone for so many env steps; None if it is not measured.
    """

    name: str
    action_size: int
    reset: Callable[[], None]
    ours: Callable[[NDArray[np.float32]], tuple[list[float], NDArray[np.float64]]]
    theirs: Callable[[NDArray[np.float32]], tuple[list[float], NDArray[np.float64]]]
    floor: Callable[[int], None] | None = None


def metaworld_state(settings: RowSettings) -> Result:
    """``execute`` with chunks of 50, against a ``gym.make`` loop."""
    names = ["reach"] if settings.quick else ["reach", "drawer-open", "push", "door-open"]
    steps, turns = (100, 2) if settings.quick else (500, 12)
    pairs = [_metaworld_pair(name) for name in names]
    return _compare("Meta-World, chunks of 50, against a gym.make loop", "gym.make loop", pairs, steps, turns, 4.0)


def robosuite_step(settings: RowSettings) -> Result:
    """``step`` against robosuite's own."""
    names = ["lift"] if settings.quick else ["lift", "door", "pick-place-can"]
    steps, turns = (20, 2) if settings.quick else (100, 10)
    pairs = [_robosuite_pair(name) for name in names]
    return _compare(
        "robosuite, control steps, against robosuite's own step", "robosuite", pairs, steps, turns, 3.0,
        gate_steps=60 if settings.quick else 500,
    )  # fmt: skip


def _metaworld_pair(name: str) -> Pair:
    suite = metaworld_suite(image_size=96, render_profile="reference")
    ours: Any = suite.make_environment(next(task for task in suite.tasks() if task.name == name))
    import gymnasium
    import metaworld  # noqa: F401 - registers itself

    stock = gymnasium.make("Meta-World/MT1", env_name=f"{name}-v3", seed=STATE, disable_env_checker=True)
    inner: Any = stock.unwrapped

    def reset() -> None:
        ours.reset(STATE)
        stock.reset()
        inner._freeze_rand_vec = False  # its own task's state gives way to ours
        inner.seeded_rand_vec = True
        inner.seed(STATE)
        inner.reset(seed=STATE)

    def execute(actions: NDArray[np.float32]) -> tuple[list[float], NDArray[np.float64]]:
        rewards = [transition.reward for transition in ours.execute(actions)]
        return rewards, ours.raw_observation

    def loop(actions: NDArray[np.float32]) -> tuple[list[float], NDArray[np.float64]]:
        rewards, observation = [], np.empty(0)
        for action in actions:
            observation, reward, _, _, _ = stock.step(action)
            rewards.append(float(reward))
        return rewards, observation

    def floor(steps: int) -> None:
        import mujoco

        mujoco.mj_step(inner.model, inner.data, nstep=steps * inner.frame_skip)

    return Pair(name, 4, reset, execute, loop, floor)


def _robosuite_pair(name: str) -> Pair:
    from vla_cl.envs.robosuite import build_simulation
    from vla_cl.envs.robosuite_core import global_seed
    from vla_cl.envs.robosuite_tasks import TASKS

    suite = robosuite_suite(image_size=84, render_profile="reference")
    ours: Any = suite.make_environment(next(task for task in suite.tasks() if task.name == name))
    stock: Any = build_simulation(TASKS[name][0])

    def reset() -> None:
        ours.reset(STATE)
        with global_seed(STATE):
            stock.reset()

    def state(environment: Any) -> NDArray[np.float64]:  # noqa: ANN401 - robosuite's
        data = environment.sim.data._data
        return np.concatenate([data.qpos, data.qvel, data.ctrl])

    def execute(actions: NDArray[np.float32]) -> tuple[list[float], NDArray[np.float64]]:
        rewards = [transition.reward for transition in ours.execute(actions)]
        return rewards, state(ours.core.environment)

    def loop(actions: NDArray[np.float32]) -> tuple[list[float], NDArray[np.float64]]:
        rewards = [float(stock.step(action[: stock.action_dim])[1]) for action in actions]
        return rewards, state(stock)

    def floor(steps: int) -> None:
        import mujoco

        substeps = int(stock.control_timestep / stock.model_timestep)
        mujoco.mj_step(stock.sim.model._model, stock.sim.data._data, nstep=steps * substeps)

    return Pair(name, 7, reset, execute, loop, floor)


def _compare(
    title: str, peer: str, pairs: Sequence[Pair], steps: int, turns: int, goal: float, gate_steps: int = 500
) -> Result:
    """CPU time of this process, so that threads would count as well."""
    worst, compared = 0.0, 0
    for pair in pairs:
        gap, count = _gap(pair, gate_steps)
        worst, compared = max(worst, gap), compared + count

    def timed(turn: int, ours: bool) -> float:
        seconds, done = 0.0, 0
        for number, pair in enumerate(pairs):
            actions = _actions(pair, steps, seed=turn * len(pairs) + number)
            pair.reset()
            execute = pair.ours if ours else pair.theirs
            began = time.process_time()
            for start in range(0, steps, CHUNK):
                done += len(execute(actions[start : start + CHUNK])[0])
            seconds += time.process_time() - began
        return seconds / done

    seconds = take_turns({"ours": lambda turn: timed(turn, True), peer: lambda turn: timed(turn, False)}, turns)
    found = ratio(seconds["ours"], seconds[peer])
    mine, other = float(np.median(seconds["ours"])), float(np.median(seconds[peer]))
    floor = _floor(pairs, steps)
    gate = Gate(
        f"observations or states and rewards to {TOLERANCE:g}", worst <= TOLERANCE,
        f"largest difference {worst:.2g} in {compared} env steps",
    )  # fmt: skip
    return Result(
        compares=title,
        gate=gate,
        ratio=found,
        figures=[Figure("ours", round(1 / mine), "steps/s"), Figure(peer, round(1 / other), "steps/s")],
        holds=gate.passed and found.median >= goal,
        profile={
            "physics (mj_step alone)": f"{readable(floor)} ({floor / mine:.0%})",
            "the rest": readable(max(0.0, mine - floor)),
        },
        notes=f"If only mj_step were left, the ratio would be {other / floor:.1f}x.",
    )


def _gap(pair: Pair, steps: int) -> tuple[float, int]:
    """Largest difference and env steps compared; in chunks of all sizes, to see observations inside of long ones."""
    pair.reset()
    actions = _actions(pair, steps, seed=12345)
    worst, start = 0.0, 0
    for size in _sizes(steps):
        chunk = actions[start : start + size]
        rewards, observation = pair.ours(chunk)
        other_rewards, other_observation = pair.theirs(chunk[: len(rewards)])
        worst = max(worst, float(np.abs(np.subtract(rewards, other_rewards)).max()))
        worst = max(worst, float(np.abs(observation - other_observation).max()))
        start += len(rewards)
        if len(rewards) < size:  # a success ends the episode
            break
    return worst, start


def _sizes(steps: int) -> list[int]:
    sizes: list[int] = []
    for size in itertools.cycle([1, 1, 2, 3, 7, 50]):
        sizes.append(min(size, steps - sum(sizes)))
        if sum(sizes) == steps:
            break
    return sizes


def _actions(pair: Pair, count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, (count, pair.action_size)).astype(np.float32)


def _floor(pairs: Sequence[Pair], steps: int) -> float:
    """Seconds of an env step of which only MuJoCo's own is left."""
    seconds = 0.0
    for pair in pairs:
        pair.reset()
        if pair.floor is not None:
            began = time.process_time()
            pair.floor(steps)
            seconds += time.process_time() - began
    return seconds / (steps * len(pairs))

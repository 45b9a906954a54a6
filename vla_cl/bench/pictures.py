"""Rows: pictures per second in the fast render profile against the reference profile, at 128 pixels, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_cl.bench.measuring import ratio, readable, take_turns
from vla_cl.bench.rows import Figure, Gate, Result, RowSettings
from vla_cl.bench.suites import libero_suite, metaworld_suite, robosuite_suite
from vla_cl.interfaces import Environment, Suite

SIZE = 128
WARM_UP_STEPS = 5


@dataclass(frozen=True)
class Scene:
    """What is drawn.

    Attributes:
        suite: Render profile to suite.
        task: The task's name.
        goal: How many times faster the fast profile has to be.
    """

    suite: Callable[[str], Suite]
    task: str
    goal: float


def metaworld(settings: RowSettings) -> Result:
    """One camera."""
    return _compare(Scene(lambda profile: metaworld_suite(SIZE, profile), "drawer-open", 9.0), settings)


def robosuite(settings: RowSettings) -> Result:
    """Two cameras."""
    return _compare(Scene(lambda profile: robosuite_suite(SIZE, profile), "pick-place-can", 6.0), settings)


def libero(settings: RowSettings) -> Result:
    """Two cameras."""
    suite = libero_suite("libero_object", settings, SIZE, "fast")
    name = suite.tasks()[0].name
    return _compare(Scene(lambda profile: libero_suite("libero_object", settings, SIZE, profile), name, 6.0), settings)


def _compare(scene: Scene, settings: RowSettings) -> Result:
    """The gate is the physics: the look must not change a byte of it."""
    turns, reference_repeats, fast_repeats = (2, 1, 2) if settings.quick else (12, 3, 15)
    worlds: dict[str, Environment] = {}
    states: dict[str, bytes] = {}
    pictures = 1
    for profile in ("fast", "reference"):
        suite = scene.suite(profile)
        task = next(task for task in suite.tasks() if task.name == scene.task)
        worlds[profile] = suite.make_environment(task)
        worlds[profile].reset(suite.initial_states("report", 1)[0])
        action = np.full(suite.spec.action_size, 0.3, dtype=np.float32)
        for _ in range(WARM_UP_STEPS):
            worlds[profile].step(action)
            worlds[profile].observe()
        states[profile] = worlds[profile].state().tobytes()
        pictures = len(suite.spec.cameras)

    def side(profile: str, repeats: int) -> Callable[[int], float]:
        def measure(turn: int) -> float:
            began = time.perf_counter()
            for _ in range(repeats):
                worlds[profile].observe()
            return (time.perf_counter() - began) / (repeats * pictures)

        return measure

    seconds = take_turns({"fast": side("fast", fast_repeats), "reference": side("reference", reference_repeats)}, turns)
    for world in worlds.values():
        world.close()
    found = ratio(seconds["fast"], seconds["reference"])
    fast, reference = (float(np.median(seconds[profile])) for profile in ("fast", "reference"))
    same = states["fast"] == states["reference"]
    gate = Gate("the state after the same actions, byte for byte", same, f"{WARM_UP_STEPS} env steps, with pictures")
    return Result(
        compares=f"{scene.task} at {SIZE} pixels, fast against reference render profile, one core",
        gate=gate,
        ratio=found,
        figures=[
            Figure("fast", round(1 / fast, 1), "images/s"),
            Figure("reference", round(1 / reference, 1), "images/s"),
        ],
        holds=gate.passed and found.median >= scene.goal,
        profile={"one fast picture": readable(fast), "one reference picture": readable(reference)},
    )

"""A suite of a plug-in, looked at on a first episode before anything is recorded or rolled out.

The suites of this package have tests. Of anybody else's, what it declares is compared with what its environment gives,
and two episodes from the same initial state with each other.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as LateError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.rendering import choose_gl_backend
from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.rollout.lifeline import children, end_with_parent, in_main_thread, kill_children
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError, Observation, Split, SuiteSpec, Task, Transition

STEPS = 5
"""Actions of the first episode."""

DEADLINE = 300.0
"""Seconds that the first episode may take: compiling a scene is slow."""

_FAILURES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError,
             OSError, RuntimeError, TypeError, ValueError)  # fmt: skip
_PASSED: set[str] = set()
"""Suites that this process has looked at, with the file that they come from."""


def check_suite(suite: Suite, task: Task, demonstrated: bool, deadline: float = DEADLINE) -> None:
    """Look at a suite in a process of its own, as it will be used; of the same suite once in this process.

    Args:
        suite: Under its own camera names.
        task: Of it.
        demonstrated: Whether its expert will record demonstrations.
        deadline: Seconds.

    Raises:
        ConfigurationError: As of `first_episode`; or it cannot be sent to a process, ends it, or never answers.
    """
    known = f"{type(suite).__module__}:{type(suite).__qualname__} {suite.fingerprint()} {suite.spec} {demonstrated}"
    if known in _PASSED:
        return
    who, before = _name(suite), children()
    try:
        ForkingPickler.dumps(suite)
    except Exception as error:  # whatever its attributes raise
        raise ConfigurationError(
            f"{who} cannot be sent to the processes that simulate ({_words(error)}); keep plain settings in the suite, "
            "and make simulators in make_environment"
        ) from error
    with ProcessPoolExecutor(1, get_context("spawn"), _start_worker, (in_main_thread(),)) as pool:
        try:
            pool.submit(first_episode, suite, task, demonstrated).result(deadline)
        except BrokenProcessPool as error:
            raise ConfigurationError(f"{who}: its process died in the first episode of {task.id}") from error
        except LateError as error:
            kill_children(since=before)
            raise ConfigurationError(
                f"{who}: the first episode of {task.id} did not end within {deadline:g} seconds"
            ) from error
        except BaseException:  # Ctrl-C as well: the worker may hang
            kill_children(since=before)
            raise
    _PASSED.add(known)


def _start_worker(started_in_main_thread: bool) -> None:
    end_with_parent(started_in_main_thread)
    choose_gl_backend(worker=True)


def first_episode(suite: Suite, task: Task | None = None, demonstrated: bool = True) -> None:
    """Take a few steps of a task and compare all that comes with what the suite declares; then the same again.

    Args:
        suite: A suite.
        task: Of it; None: its first one.
        demonstrated: Whether its expert chooses the actions; else they are the middle of their range.

    Raises:
        ConfigurationError: A shape, type, size or range is another one, a method fails, or the same initial state and
            actions give something else the second time. The message names the method and both sides.
    """
    _require_spec(suite)
    _require_tasks(suite)
    states = _require_states(suite)
    look = _Look(suite, task or suite.tasks()[0], states["train"][0], demonstrated)
    with_first = look.episode(None)
    look.require_same(with_first, look.episode(with_first.actions))
    look.close()


def _require_spec(suite: Suite) -> None:
    """Sizes and ranges that can be; the keys of cameras are LeRobot's.

    Raises:
        ConfigurationError: One cannot be.
    """
    spec = _called(f"{_name(suite)}.spec", lambda: suite.spec)
    who = f"{_name(suite)}.spec"
    _require(isinstance(spec, SuiteSpec), who, "a SuiteSpec", type(spec).__name__)
    for camera in spec.cameras:
        _require(
            camera == "observation.image" or camera.startswith("observation.images."),
            f"{who}.cameras",
            "keys like observation.image or observation.images.wrist",
            repr(camera),
        )
    for name in ("action_low", "action_high"):
        given = getattr(spec, name)
        _require(len(given) == spec.action_size, f"{who}.{name}", f"action_size={spec.action_size} numbers", len(given))
    ordered = all(low < high for low, high in zip(spec.action_low, spec.action_high, strict=True))
    _require(ordered, f"{who}.action_low", f"numbers below action_high={spec.action_high}", spec.action_low)
    _require(spec.fps >= 1, f"{who}.fps", "env steps per second, at least 1", spec.fps)


def _require_tasks(suite: Suite) -> None:
    """Ids are ``<suite>/<name>``, each once.

    Raises:
        ConfigurationError: One is not.
    """
    tasks, who = _called(f"{_name(suite)}.tasks()", suite.tasks), f"{_name(suite)}.tasks()"
    _require(len(tasks) > 0, who, "at least one task", "none")
    ids = [task.id for task in tasks]
    for task in tasks:
        _require("/" in task.id, who, f"ids like {suite.name}/reach", repr(task.id))
        _require(ids.count(task.id) == 1, who, "each id once", f"{task.id!r} {ids.count(task.id)} times")
        _require(task.max_steps >= 1, who, "max_steps of at least 1", f"{task.max_steps} of {task.id}")


def _require_states(suite: Suite) -> Mapping[str, list[int]]:
    """Whole numbers, as many as asked for, no two splits with the same one.

    Raises:
        ConfigurationError: They are not.
    """
    who, found = f"{_name(suite)}.initial_states", {}
    for split in get_args(Split):
        states = list(_called(f"{who}({split!r}, 1)", lambda split=split: suite.initial_states(split, 1)))  # type: ignore[misc]
        whole = len(states) == 1 and isinstance(states[0], int | np.integer)
        _require(whole, f"{who}({split!r}, 1)", "one whole number", states)
        found[split] = states
    distinct = {states[0] for states in found.values()}
    _require(len(distinct) == len(found), who, "other states for train, select and report", found)
    return found


@dataclass(frozen=True)
class _Episode:
    """What came of an episode: an entry for each env step, and one more observation."""

    actions: list[NDArray[np.float32]]
    observations: list[Observation]
    transitions: list[Transition]


class _Look:
    """Two episodes of a task in two worlds."""

    def __init__(self, suite: Suite, task: Task, state: int, demonstrated: bool) -> None:
        self._suite, self._task, self._state, self._demonstrated = suite, task, state, demonstrated
        self._worlds: list[Environment] = []

    @cached_property
    def _expert(self) -> Expert | None:
        if not self._demonstrated:
            return None
        who = f"{_name(self._suite)}.make_expert"
        expert = _called(who, lambda: self._suite.make_expert(self._task))
        _require(isinstance(expert, Expert), who, "an Expert", type(expert).__name__)
        return expert

    def episode(self, actions: list[NDArray[np.float32]] | None) -> _Episode:
        """From the initial state, with these actions or the expert's; in a world of its own."""
        maker = f"{_name(self._suite)}.make_environment"
        world = _called(maker, lambda: self._suite.make_environment(self._task))
        _require(isinstance(world, Environment), maker, "an Environment", type(world).__name__)
        self._worlds.append(world)
        who = _name(world)
        _called(f"{who}.reset", lambda: world.reset(self._state))
        if actions:  # what an earlier episode has left must not show
            _called(f"{who}.step", lambda: world.step(actions[0]))
            _called(f"{who}.reset", lambda: world.reset(self._state))
        found = _Episode([], [self._observed(world)], [])
        for number in range(STEPS):
            action = self._action(world) if actions is None else actions[number]
            transition = _called(f"{who}.step", lambda action=action: world.step(action))  # type: ignore[misc]
            self._require_transition(who, transition)
            found.actions.append(action)
            found.transitions.append(transition)
            found.observations.append(self._observed(world))
            if transition.ended or (actions is not None and number + 1 == len(actions)):
                break
        film = _called(f"{who}.film", world.film)
        image = isinstance(film, np.ndarray) and film.dtype == np.uint8 and film.ndim == 3 and film.shape[2] == 3
        _require(image, f"{who}.film", "uint8 of shape (height, width, 3)", _shown(film))
        return found

    def close(self) -> None:
        """Both worlds."""
        for world in self._worlds:
            _called(f"{_name(world)}.close", world.close)

    def _observed(self, world: Environment) -> Observation:
        spec, who = self._suite.spec, f"{_name(world)}.observe"
        seen = _called(who, world.observe)
        _require(isinstance(seen, Observation), who, "an Observation", type(seen).__name__)
        _require(
            seen.images.keys() == spec.cameras.keys(),
            f"{who}: images",
            f"the cameras of {_name(self._suite)}.spec, {sorted(spec.cameras)}",
            sorted(seen.images),
        )
        for camera, size in spec.cameras.items():
            image, due = seen.images[camera], (*size, 3)
            fits = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == due
            _require(fits, f"{who}: {camera}", f"uint8 of shape {due} as in spec.cameras", _shown(image))
        self._require_state(f"{who}: state", seen.state)
        state = _called(f"{_name(world)}.state", world.state)
        self._require_state(f"{_name(world)}.state", state)
        alike = np.array_equal(state, seen.state)
        _require(alike, f"{_name(world)}.state", f"the state of observe(), {seen.state}", state)
        told = f"{who}: instruction"
        _require(seen.instruction == self._task.instruction, told, repr(self._task.instruction), repr(seen.instruction))
        return seen

    def _require_state(self, who: str, state: object) -> None:
        due = (self._suite.spec.state_size,)
        fits = isinstance(state, np.ndarray) and state.dtype == np.float32 and state.shape == due
        _require(fits, who, f"float32 of shape {due} as in spec.state_size", _shown(state))
        _require(bool(np.isfinite(state).all()), who, "finite numbers", state)  # type: ignore[call-overload]

    @staticmethod
    def _require_transition(who: str, given: object) -> None:
        _require(isinstance(given, Transition), f"{who}.step", "a Transition", type(given).__name__)
        assert isinstance(given, Transition)
        for name in ("success", "ended"):
            value = getattr(given, name)
            _require(isinstance(value, bool | np.bool_), f"{who}.step: {name}", "True or False", repr(value))
        number = isinstance(given.reward, int | float | np.number) and bool(np.isfinite(given.reward))
        _require(number, f"{who}.step: reward", "a finite number", repr(given.reward))

    def _action(self, world: Environment) -> NDArray[np.float32]:
        """The expert's, or the middle of the range."""
        spec, expert = self._suite.spec, self._expert
        low, high = (np.asarray(bound, dtype=np.float32) for bound in (spec.action_low, spec.action_high))
        if expert is None:
            middle = (np.nan_to_num(low, neginf=-1.0) + np.nan_to_num(high, posinf=1.0)) / 2
            return np.clip(middle, low, high).astype(np.float32)
        who = f"{_name(expert)}.act"
        action = _called(who, lambda: expert.act(world))
        fits = isinstance(action, np.ndarray) and action.shape == low.shape and bool(np.isfinite(action).all())
        _require(fits, who, f"{spec.action_size} finite numbers as in spec.action_size", _shown(action))
        within = bool((action >= low - 1e-6).all() and (action <= high + 1e-6).all())
        _require(within, who, f"actions from {spec.action_low} to {spec.action_high} as in the spec", action.tolist())
        return np.asarray(action, dtype=np.float32)

    def require_same(self, first: _Episode, second: _Episode) -> None:
        """The second episode must repeat the first one, bit for bit.

        Raises:
            ConfigurationError: It does not.
        """
        who = _name(self._worlds[0])
        start = f"{who}.reset({self._state})"
        for number, (one, other) in enumerate(zip(first.observations, second.observations, strict=False)):
            where = start if number == 0 else f"{who}.step, action {number} after reset({self._state})"
            _require(
                np.array_equal(one.state, other.state),
                where,
                f"the same state each time, {one.state}",
                f"{other.state} the second time",
            )
            for camera in one.images:
                unlike = int((one.images[camera] != other.images[camera]).sum())
                _require(unlike == 0, where, f"the same {camera} each time", f"{unlike} other values the second time")
        outcomes = [[(t.success, t.ended, t.reward) for t in episode.transitions] for episode in (first, second)]
        _require(
            outcomes[0] == outcomes[1],
            f"{who}.step after reset({self._state})",
            f"the same (success, ended, reward) for the same actions, {outcomes[0][-1]} at the end",
            f"{outcomes[1][-1]} the second time",
        )


def _name(part: object) -> str:
    return type(part).__name__


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"{type(value).__name__} {harmless(repr(value), 40)}"


def _require(holds: bool, who: str, expected: str, came: object) -> None:
    if not holds:
        raise ConfigurationError(f"{who} must give {expected}; got {harmless(str(came), 90)}")


def _called[Given](who: str, call: Callable[[], Given]) -> Given:
    """What a method of the suite gives.

    Raises:
        ConfigurationError: It fails; the message names the file and the line.
    """
    try:
        return call()
    except ConfigurationError:
        raise
    except _FAILURES as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigurationError(
            f"{who} fails ({_words(error)}; {harmless(Path(last.filename).name, 40)}, line {last.lineno}); correct it, "
            "or run again with --debug"
        ) from error


def _words(error: Exception) -> str:
    return harmless(f"{type(error).__name__}: {' '.join(str(error).split())}", 120)

"""Rows: evaluating a policy on pictures, against LeRobot's own evaluation of the same checkpoint and states."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.bench.costs import Costs, measured_costs
from vla_cl.bench.measuring import ratio, readable, say, shares, take_turns
from vla_cl.bench.rows import Figure, Gate, Result, RowSettings
from vla_cl.bench.small_policy import save_small_act
from vla_cl.bench.stock_lerobot import FIRST_SEED, StockEvaluation, StockSettings, Turn, hashes
from vla_cl.bench.suites import libero_suite, metaworld_suite
from vla_cl.interfaces import Policy, Suite
from vla_cl.types import Batch, Draw, EpisodeRequest, InterfaceSpec, Observation, Outcome, Task

EQUAL = "success, length and return of every episode, SHA-256 of every picture at a decision (as a multiset)"


@dataclass(frozen=True)
class Size:
    """How much is evaluated.

    Attributes:
        max_steps: Time limit of an episode on both sides, in env steps.
        episodes: Of each turn and side.
        turns: How often each side is measured.
    """

    max_steps: int
    episodes: int
    turns: int


@dataclass(frozen=True)
class Job:
    """An evaluation that both sides do.

    Attributes:
        suite: Ours.
        task: The one task.
        first_state: Number of the first initial state; a turn takes the next ones.
        checkpoint: A LeRobot policy folder.
        replan_every: Actions per decision.
        size: How much.
        workspace: A folder that may be filled.
    """

    suite: Suite
    task: Task
    first_state: int
    checkpoint: Path
    replan_every: int
    size: Size
    workspace: Path


class Watching(Policy):
    """A policy whose pictures are noted."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.pictures: list[NDArray[np.uint8]] = []

    def act(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """The policy's; padding repeats an observation and is not noted."""
        for observation in {id(one): one for one in observations}.values():
            self.pictures += [observation.images[key].copy() for key in sorted(observation.images)]
        return self._policy.act(observations)

    @property
    def spec(self) -> InterfaceSpec:
        """The policy's."""
        return self._policy.spec

    @property
    def chunk_size(self) -> int:
        """The policy's."""
        return self._policy.chunk_size

    @property
    def module(self) -> Any:  # noqa: ANN401 - a torch module
        """The policy's."""
        return self._policy.module

    @property
    def device(self) -> Any:  # noqa: ANN401 - a torch device
        """The policy's."""
        return self._policy.device

    def loss(self, batch: Batch, draw: Draw) -> Any:  # noqa: ANN401 - a tensor
        """The policy's."""
        return self._policy.loss(batch, draw)

    def features(self, batch: Batch) -> Any:  # noqa: ANN401 - a tensor
        """The policy's."""
        return self._policy.features(batch)

    def save(self, folder: Path) -> None:
        """The policy's."""
        self._policy.save(folder)


class OurEvaluation:
    """The engine, with workers and environments kept between turns."""

    def __init__(self, job: Job, policy: Policy, call_size: int) -> None:
        from vla_cl.rollout.engine import Engine

        cores = os.cpu_count() or 1
        workers = min(cores, job.size.episodes)
        slots = -(-job.size.episodes // workers)
        self._job, self._policy = job, Watching(policy)
        self._engine = Engine(
            job.suite, workers, slots, job.replan_every, call_size=call_size, check_render_profile=False
        )

    def turn(self, first: int) -> Turn:
        """Roll out the initial states ``first``, ``first + 1``, ..."""
        task = replace(self._job.task, max_steps=self._job.size.max_steps)
        states = range(first, first + self._job.size.episodes)
        self._policy.pictures.clear()
        began = time.perf_counter()
        episodes = self._engine.run(
            self._policy, [EpisodeRequest(task, "report", state) for state in states], progress=False
        )
        seconds = time.perf_counter() - began
        for episode in episodes:
            if episode.outcome is Outcome.ERROR:
                raise RuntimeError(f"our episode {episode.initial_state} crashed:\n{episode.error}")
        results = [(one.outcome is Outcome.SUCCESS, one.env_steps, one.total_reward) for one in episodes]
        decisions = sum(one.decisions for one in episodes)
        return Turn(seconds, results, hashes(self._policy.pictures), decisions)

    def close(self) -> None:
        """End the workers."""
        self._engine.close()


def metaworld_10(settings: RowSettings) -> Result:
    """Ten actions per decision."""
    return _metaworld(settings, 10, 10.0, Size(max_steps=60, episodes=4, turns=4))


def metaworld_50(settings: RowSettings) -> Result:
    """Fifty actions per decision."""
    return _metaworld(settings, 50, 30.0, Size(max_steps=100, episodes=4, turns=4))


def metaworld_1(settings: RowSettings) -> Result:
    """A decision at every env step."""
    return _metaworld(settings, 1, 1.3, Size(max_steps=24, episodes=4, turns=4))


def _metaworld(settings: RowSettings, replan_every: int, goal: float, size: Size) -> Result:
    size = Size(max_steps=12, episodes=2, turns=1) if settings.quick else size
    suite = metaworld_suite(image_size=480, render_profile="reference")
    checkpoint = settings.checkpoint
    if checkpoint is None:  # presses the handle in some of the episodes, late
        mean_action = HANDLE_PRESS_MEAN[replan_every]
        checkpoint = save_small_act(
            settings.workspace / "act", suite.spec, mean_action, HANDLE_PRESS_SPREAD, seen_size=128
        )
    task = next(task for task in suite.tasks() if task.name == "handle-press")
    job = Job(suite, task, FIRST_SEED, checkpoint, replan_every, size, settings.workspace)
    default = StockSettings("metaworld", {"task": "handle-press-v3"}, None, size.max_steps, replan_every)
    peers = {"lerobot-eval, defaults": default, **_with_more_environments(default, size)}
    return _compare(job, peers, dict.fromkeys(peers, goal), peer_state=FIRST_SEED)


def libero_10(settings: RowSettings) -> Result:
    """Two cameras, ten actions per decision."""
    size = Size(max_steps=10, episodes=2, turns=1) if settings.quick else Size(max_steps=40, episodes=2, turns=5)
    suite = libero_suite("libero_object", settings, image_size=256, render_profile="reference")
    checkpoint = save_small_act(settings.workspace / "act", suite.spec, (0.0, 0.0, -0.3, 0, 0, 0, -1), 0.2, 128)
    task = suite.tasks()[0]
    job = Job(suite, task, 0, checkpoint, 10, size, settings.workspace)
    fields: dict[str, Any] = {
        "task": "libero_object", "task_ids": [0], "observation_height": 256, "observation_width": 256,
    }  # fmt: skip
    peers: dict[str, StockSettings] = {}
    for kind in ("hard", "soft"):
        default = StockSettings("libero", {**fields, "hard_reset": kind == "hard"}, None, size.max_steps, 10)
        more = {f"{name}, {kind} resets": one for name, one in _with_more_environments(default, size).items()}
        if kind == "hard" or not more:
            peers[f"lerobot-eval, {kind} resets"] = default
        peers |= more
    goals = {name: 6.0 if "hard" in name else 4.0 for name in peers}
    return _compare(job, peers, goals, peer_state=0, ungated=("soft",))


HANDLE_PRESS_MEAN: Mapping[int, tuple[float, ...]] = {
    10: (-0.25, 0.0, -0.25, 0.0),
    50: (-0.13, 0.0, -0.13, 0.0),
    1: (-0.8, 0.0, -0.8, 0.0),
}
HANDLE_PRESS_SPREAD = 0.1


def _with_more_environments(settings: StockSettings, size: Size) -> dict[str, StockSettings]:
    """LeRobot with one asynchronous environment for each core, where that is not its default already."""
    from lerobot.configs.default import EvalConfig

    cores = min(os.cpu_count() or 1, size.episodes)
    while size.episodes % cores:
        cores -= 1
    if EvalConfig(n_episodes=size.episodes).batch_size == cores:
        return {}
    return {f"lerobot-eval, batch_size={cores}, asynchronous": replace(settings, batch_size=cores, threads=1)}


def _compare(
    job: Job,
    peers: Mapping[str, StockSettings],
    goals: Mapping[str, float],
    peer_state: int,
    ungated: Sequence[str] = (),
) -> Result:
    """Turn about: each setting of the peer, and ours with as many observations in one call of the policy.

    Matrix products of another batch size differ in their last bits, so what is compared has the same size. Ours runs
    with one thread of torch, because the workers fill the cores; so does the peer where its environments do.

    Args:
        job: What is evaluated.
        peers: Name to setting; the first is the peer's default.
        goals: Name to the ratio wanted.
        peer_state: What the peer calls its initial state 0.
        ungated: Words in the names of peers that are known to start elsewhere (LeRobot's soft resets of LIBERO): the
            ratio to them stands aside and their first difference is told, not held against the row.
    """
    import torch

    from vla_cl.models.vla import VlaModel

    usual_threads = torch.get_num_threads()
    policy = VlaModel.load(job.checkpoint, "cpu")
    theirs = {name: StockEvaluation(job.checkpoint, setting, job.size.episodes) for name, setting in peers.items()}
    sizes = {name: peer.batch_size for name, peer in theirs.items()}
    ours = {size: OurEvaluation(job, policy, size) for size in sorted(set(sizes.values()))}
    found: dict[str, list[Turn]] = {name: [] for name in (*theirs, *map(_name, ours))}

    def side(name: str, evaluation: StockEvaluation | OurEvaluation, threads: int | None) -> Callable[[int], float]:
        shift = 0 if isinstance(evaluation, OurEvaluation) else peer_state

        def measure(turn: int) -> float:
            torch.set_num_threads(threads or usual_threads)
            found[name].append(evaluation.turn(job.first_state + turn * job.size.episodes - shift))
            return found[name][-1].seconds

        return measure

    sides = {_name(size): side(_name(size), evaluation, 1) for size, evaluation in ours.items()}
    sides |= {name: side(name, evaluation, peers[name].threads) for name, evaluation in theirs.items()}
    try:
        say("building environments on both sides")
        for evaluation in ours.values():
            evaluation.turn(job.first_state)
        for peer in theirs.values():
            peer.warm_up()
        seconds = take_turns(sides, job.size.turns)
    finally:
        for our_evaluation in ours.values():
            our_evaluation.close()
        for their_evaluation in theirs.values():
            their_evaluation.close()
    return _result(job, sizes, goals, found, seconds, ungated)


def _result(
    job: Job,
    sizes: Mapping[str, int],
    goals: Mapping[str, float],
    found: Mapping[str, list[Turn]],
    seconds: Mapping[str, list[float]],
    ungated: Sequence[str],
) -> Result:
    ratios = {name: ratio(seconds[_name(size)], seconds[name]) for name, size in sizes.items()}
    differences = {name: _difference(found[_name(size)], found[name]) for name, size in sizes.items()}
    comparable = [name for name in ratios if not any(word in name for word in ungated)]
    gated = {name: differences[name] for name in comparable if differences[name]}
    episodes = [episode for turn in found[_name(min(sizes.values()))] for episode in turn.episodes]
    frames = sum(turn.frames.total() for turn in found[_name(min(sizes.values()))])
    detail = f"{len(episodes)} episodes, {sum(one[0] for one in episodes)} of them successes, {frames} pictures"
    gate = Gate(EQUAL, not gated, "; ".join(f"{name}: {text}" for name, text in gated.items()) or detail)
    hourly = {name: 3600 * job.size.episodes / float(np.median(values)) for name, values in seconds.items()}
    better = min(comparable, key=lambda name: ratios[name].median / goals[name])
    mine = _name(sizes[better])
    costs = measured_costs(job.suite, job.task, job.first_state, job.checkpoint, sizes[better], job.replan_every)
    profile, floor = _profile(costs, found[mine], seconds[mine], seconds[better])
    notes = [f"Episodes of at most {job.size.max_steps} env steps; the ratio is to {better}. {floor}"]
    notes += [f"{name} differs: {text}" for name, text in differences.items() if text and name not in gated]
    return Result(
        compares=f"{job.task.id}, {job.replan_every} actions per decision, Engine against lerobot-eval",
        gate=gate,
        ratio=ratios[better],
        figures=[Figure("ours", hourly[mine], "episodes/h")]
        + [Figure(name, hourly[name], "episodes/h") for name in sizes],
        holds=gate.passed and all(one.median >= goals[name] for name, one in ratios.items()),
        profile=profile,
        others={name: one for name, one in ratios.items() if name != better},
        notes=" ".join(notes),
    )


def _difference(ours: Sequence[Turn], theirs: Sequence[Turn]) -> str:
    """The first difference between the two sides; empty if there is none."""
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for position, (one, two) in enumerate(zip(mine.episodes, other.episodes, strict=True)):
            if one != two:
                return f"turn {number}, episode {position}: (success, length, return) ours {one}, theirs {two}"
        if mine.frames != other.frames:
            missing = (other.frames - mine.frames).total()
            return f"turn {number}: {missing} of {other.frames.total()} pictures differ"
    return ""


def _profile(
    costs: Costs, turns: Sequence[Turn], seconds: Sequence[float], peer_seconds: Sequence[float]
) -> tuple[dict[str, str], str]:
    """Where our time goes, and how far the ratio could go with what is left of it."""
    cores = os.cpu_count() or 1
    decisions = sum(turn.decisions for turn in turns)
    steps = sum(length for turn in turns for _, length, _ in turn.episodes)
    episodes = sum(len(turn.episodes) for turn in turns)
    busy = {
        "pictures": decisions * costs.observe,
        "policy": decisions * costs.act,
        "env steps": steps * costs.step,
        "resets": episodes * costs.reset,
    }
    whole = sum(seconds) * cores
    bound = sum(peer_seconds) / (sum(busy.values()) / cores)
    floor = (
        f"One picture {readable(costs.observe)}, one decision {readable(costs.act)}, one env step "
        f"{readable(costs.step)}, one reset {readable(costs.reset)}: with all cores always busy the ratio would be "
        f"{bound:.1f}x."
    )
    return shares(busy, whole), floor


def _name(call_size: int) -> str:
    return f"ours, {call_size} observations per call of the policy"

"""Rows about the engine's episodes: no env step in vain, and one table whatever the layout."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.bench.counting_suite import MAX_STEPS, CountingPolicy, CountingSuite
from vla_cl.bench.measuring import say
from vla_cl.bench.rows import Figure, Gate, Ratio, Result, RowSettings
from vla_cl.bench.small_policy import save_small_act
from vla_cl.bench.suites import metaworld_suite
from vla_cl.interfaces import Policy, Suite
from vla_cl.types import Episode, EpisodeRequest

EARLY_END_LIMIT = 1.02

Row = tuple[str, str, int, str, int, int, float]
"""Of the episode table, all that must not depend on the layout; see `table_row`."""


def table_row(episode: Episode) -> Row:
    """Task, split, initial state, outcome, env steps, decisions, total reward."""
    outcome = episode.outcome.value
    return (
        episode.task, episode.split, episode.initial_state, outcome, episode.env_steps, episode.decisions,
        episode.total_reward,
    )  # fmt: skip


def differing(table: Sequence[Row], reference: Sequence[Row]) -> int:
    """Rows that are not the same, whatever the order."""
    by_episode = {row[:3]: row for row in reference}
    return len(set(by_episode) ^ {row[:3] for row in table}) + sum(by_episode.get(row[:3], row) != row for row in table)


def early_end(settings: RowSettings) -> Result:
    """Env steps executed for 200 episodes, half of them ending early, on 8 slots, against the episodes' lengths."""
    from vla_cl.rollout.engine import Engine

    count = 20 if settings.quick else 200
    suite = CountingSuite(settings.workspace)
    requests = [EpisodeRequest(suite.tasks()[0], "report", state) for state in suite.initial_states("report", count)]
    steps = settings.workspace / "steps"

    def rolled_out(workers: int, slots: int) -> tuple[list[Row], int, float]:
        steps.unlink(missing_ok=True)
        began = time.perf_counter()
        with Engine(suite, workers, slots, replan_every=8) as engine:
            episodes = engine.run(CountingPolicy(), requests, progress=False)
        return [table_row(episode) for episode in episodes], steps.stat().st_size, time.perf_counter() - began

    reference, _, _ = rolled_out(workers=1, slots=1)
    table, executed, seconds = rolled_out(workers=2, slots=4)
    lengths = sum(row[4] for row in table)
    early = sum(row[4] < MAX_STEPS for row in table)
    share = round(executed / lengths, 4)
    different = differing(table, reference)
    gate = Gate("episode table of one slot", not different, f"{count} episodes, {early} early, {different} rows differ")
    return Result(
        compares=f"env steps executed for {count} episodes on 8 slots, against the sum of their lengths",
        gate=gate,
        ratio=Ratio(share, share, share, 1),
        figures=[Figure("executed", executed, "env steps"), Figure("sum of lengths", lengths, "env steps")],
        holds=not different and share <= EARLY_END_LIMIT,
        profile={"whole evaluation, workers' start included": f"{seconds:.1f} s"},
    )


def layouts(settings: RowSettings) -> Result:
    """500 episodes of Meta-World under a network's control, in six layouts, one of them killed half-way."""
    suite, policy_folder, requests = layout_job(settings.workspace, episodes=24 if settings.quick else 500)
    from vla_cl.models.vla import VlaModel

    policy = VlaModel.load(policy_folder, "cpu")
    order = np.random.default_rng(0).permutation(len(requests))
    shuffled = [requests[position] for position in order]
    plans: dict[str, tuple[int, int, int, list[EpisodeRequest]]] = {
        "1 worker, batch 1": (1, 1, 1, requests),
        "2 workers, batch 4": (2, 4, 4, requests),
        "4 workers, batch 8": (4, 2, 8, requests),
        "2 workers, batch 1": (2, 2, 1, requests),
        "shuffled, 2 workers, batch 8": (2, 4, 8, shuffled),
    }
    tables: dict[str, list[Row]] = {}
    seconds: dict[str, float] = {}
    for name, (workers, slots, batch, wanted) in plans.items():
        began = time.perf_counter()
        tables[name] = _rolled_out(suite, policy, wanted, workers, slots, batch)
        seconds[name] = time.perf_counter() - began
        say(f"{name}: {seconds[name]:.1f} s")
    began = time.perf_counter()
    name = "killed half-way and resumed, 2 workers, batch 4"
    tables[name] = _resumed(suite, policy, policy_folder, requests, settings.workspace / "journal")
    seconds[name] = time.perf_counter() - began
    reference = next(iter(tables.values()))
    different = {name: differing(table, reference) for name, table in tables.items()}
    successes = sum(row[3] == "success" for row in reference)
    total = sum(different.values())
    words = ", ".join(f"{name}: {count}" for name, count in different.items() if count) or "none differs"
    gate = Gate("episode tables", not total, f"{len(requests)} episodes, {successes} successes, {words}")
    return Result(
        compares=f"{len(requests)} episodes of Meta-World with a small ACT, the same table in {len(tables)} layouts",
        gate=gate,
        ratio=None,
        figures=[Figure("rows that differ", total, f"of {len(requests) * len(tables)}")],
        holds=not total,
        profile={name: f"{value:.1f} s" for name, value in seconds.items()},
    )


def layout_job(workspace: Path, episodes: int) -> tuple[Suite, Path, list[EpisodeRequest]]:
    """Suite, checkpoint and requests; the same in every process that asks."""
    suite = metaworld_suite(image_size=64, render_profile="fast")
    folder = workspace / "act"
    if not folder.is_dir():
        save_small_act(folder, suite.spec, (-0.6, 0.1, -0.6, 0.0), 0.3)
    names = ("handle-press", "drawer-close")
    tasks = [replace(task, max_steps=30) for task in suite.tasks() if task.name in names]
    states = suite.initial_states("report", -(-episodes // len(tasks)))
    return suite, folder, [EpisodeRequest(task, "report", state) for state in states for task in tasks][:episodes]


def _rolled_out(
    suite: Suite, policy: Policy, requests: Sequence[EpisodeRequest], workers: int, slots: int, batch: int
) -> list[Row]:
    from vla_cl.rollout.engine import Engine

    with Engine(suite, workers, slots, replan_every=10, batch_size=batch, check_render_profile=False) as engine:
        return [table_row(episode) for episode in engine.run(policy, requests, progress=False)]


def _resumed(
    suite: Suite, policy: Policy, folder: Path, requests: Sequence[EpisodeRequest], journal: Path
) -> list[Row]:
    """Another process notes every episode that ends; it is killed half-way, and what is missing is rolled out here."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=journalled, args=(suite, folder, list(requests), journal))
    child.start()
    while child.is_alive() and (not journal.is_file() or journal.read_bytes().count(b"\n") < len(requests) // 2):
        time.sleep(0.02)
    if child.pid is not None:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    done: list[Row] = [_row(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    known = {row[:3] for row in done}
    missing = [one for one in requests if (one.task.id, one.split, one.initial_state) not in known]
    say(f"killed after {len(done)} episodes; {len(missing)} to go")
    return done + _rolled_out(suite, policy, missing, workers=2, slots=4, batch=4)


def journalled(suite: Suite, folder: Path, requests: Sequence[EpisodeRequest], journal: Path) -> None:
    """Entry point of the process that will be killed."""
    from vla_cl.models.vla import VlaModel
    from vla_cl.rollout.engine import Engine

    with journal.open("a", buffering=1) as file:

        def note(episode: Episode) -> None:
            file.write(json.dumps(table_row(episode)) + "\n")

        with Engine(suite, 2, 4, replan_every=10, batch_size=4, check_render_profile=False) as engine:
            engine.run(VlaModel.load(folder, "cpu"), requests, progress=note)


def _row(line: str) -> Row:
    content: list[Any] = json.loads(line)
    return tuple(content)

"""Collect demonstrations from a suite's experts: in parallel, resumable, the same whatever the number of workers.

A finished episode is staged as a file, so an interrupted call continues where it stopped. Initial states are tried in
order until enough have succeeded, and a task's dataset holds the first successes in that order. Each dataset has a lock
of its own: two calls record different tasks side by side, and one that wants what the other records waits for it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Never

from tqdm import tqdm

from vla_cl.envs.rendering import choose_gl_backend
from vla_cl.files import remove_leftovers, remove_leftovers_of, set_aside
from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.rollout.demonstrations import (
    METADATA,
    Recipe,
    Record,
    content_key,
    describe,
    read_staged,
    record_episode,
    stage,
    versions,
    write_dataset,
)
from vla_cl.rollout.episode_files import remove_damaged
from vla_cl.rollout.hold import counted, require_two_frames, tell_of_hold
from vla_cl.rollout.lifeline import children, end_with_parent, in_main_thread, kill_children
from vla_cl.storage.locks import only_writer
from vla_cl.storage.manifest import MANIFEST, verify_manifest
from vla_cl.storage.names import file_name
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, SuiteSpec, Task

ATTEMPTS_PER_EPISODE = 3
"""Initial states tried at most, for every demonstration wanted."""


def collect(
    suite: Suite,
    tasks: Sequence[Task],
    folder: Path,
    episodes: int,
    noise: float = 0.1,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
    record: Record = "expert",
    hold: int = 5,
) -> list[Path]:
    """Record the experts of some tasks, one LeRobotDataset v3 per task.

    The datasets lie in ``<folder>/<suite>/<task name>-<first 12 digits of the content key>``. One that exists is not
    recorded again; if all exist, no simulator is imported.

    Args:
        suite: Where the tasks and experts come from.
        tasks: A task that is named twice is recorded once.
        folder: Where the datasets go.
        episodes: Successful episodes per task.
        noise: Standard deviation of the noise on executed actions; see `Recipe`.
        seed: Of the noise.
        workers: Processes that simulate side by side.
        progress: Show a progress bar.
        record: Write the ``expert`` action or the ``executed`` one.
        hold: Env steps kept after the first success.

    Returns:
        The dataset's folder for each of ``tasks``.

    Raises:
        ConfigurationError: An argument is out of range, an expert never succeeds, the disk is full, or this machine
            cannot render.
        RuntimeError: A worker process died.
    """
    if workers < 1:
        raise ConfigurationError(f"workers is a number of processes, at least 1, got {workers}")
    recipe = Recipe(episodes, noise, seed, record, hold)
    jobs = {task.id: _Job.plan(suite, task, folder, recipe) for task in tasks}
    missing = [job for job in jobs.values() if not job.is_done()]
    for job in jobs.values():
        if job not in missing:
            job.tidy()
    while missing:
        missing = _collect_some(suite, missing, recipe, workers, progress)
    return [jobs[task.id].target for task in tasks]


def _collect_some(suite: Suite, jobs: Sequence[_Job], recipe: Recipe, workers: int, progress: bool) -> list[_Job]:
    """Record what nobody else is recording; if that is nothing, wait for the first. The jobs that are still missing.

    Nobody waits while holding a lock, so two calls never wait for each other.
    """
    with ExitStack() as locks:
        mine = [job for job in jobs if job.lock(locks, wait=0)]
        if not mine and jobs[0].lock(locks, wait=-1):
            mine = [jobs[0]]
        wanted = [job for job in mine if not job.is_done()]  # another call may have recorded it meanwhile
        for job in wanted:
            job.clear()
        if wanted:
            _collect_missing(suite, wanted, recipe, workers, progress)
    return [job for job in jobs if job not in mine]


@dataclass
class _Job:
    """The demonstrations of one task that are still to be recorded."""

    task: Task
    target: Path
    staging: Path
    description: dict[str, object]
    candidates: Sequence[int]
    episodes: int
    hold: int
    outcomes: dict[int, bool] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    held: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def plan(cls, suite: Suite, task: Task, folder: Path, recipe: Recipe) -> _Job:
        description = describe(suite, task, recipe)
        target = folder / suite.name / f"{file_name(task.name)}-{content_key(description)[:12]}"
        staging = target.with_name(f".{target.name}.staged")
        candidates = _initial_states(suite, recipe.episodes)
        return cls(task, target, staging, description, candidates, recipe.episodes, recipe.hold)

    def lock(self, locks: ExitStack, wait: float) -> bool:
        """Become the only one who records this dataset, until it is written or ``locks`` end; False: another is."""
        with ExitStack() as held:
            try:
                held.enter_context(only_writer(self.lock_file, f"the demonstrations {short(self.target)}", wait))
            except ConfigurationError:
                return False
            self.held = locks.enter_context(held.pop_all())
        return True

    @property
    def lock_file(self) -> Path:
        return self.target.with_name(f".{self.target.name}.lock")

    def is_done(self) -> bool:
        """Whether the dataset is there and undamaged.

        Raises:
            ConfigurationError: Something else has its name.
        """
        if not self.target.exists():
            return False
        damage = _damage(self.target)
        ours = any((self.target / name).exists() for name in (METADATA, MANIFEST))
        if not ours or (damage is None and _key_of(self.target) != self.description_key):
            raise ConfigurationError(
                f"{short(self.target)} exists but is not what this call would record; move it away"
            )
        return damage is None

    def tidy(self) -> None:
        """Remove what a kill has left of a dataset that is complete, unless somebody is at it."""
        left = self.staging.exists() or self.lock_file.exists()
        if left and os.access(self.target.parent, os.W_OK):
            with ExitStack() as locks:
                if self.lock(locks, wait=0):
                    self.clear()
                    shutil.rmtree(self.staging, ignore_errors=True)

    def clear(self) -> None:
        """Set a damaged dataset aside, and remove what a kill has left; the lock is held."""
        remove_leftovers_of(self.target)
        remove_leftovers(self.staging, alone=True)
        if self.target.exists() and (damage := _damage(self.target)) is not None:
            aside = set_aside(self.target)
            print(f"recording {self.task.id} anew: {damage}; the damaged one is now {aside.name}", file=sys.stderr)

    @property
    def description_key(self) -> str:
        return content_key(self.description)

    def path(self, initial_state: int) -> Path:
        return self.staging / f"{initial_state}.npz"

    def find_staged(self, spec: SuiteSpec) -> None:
        """Take over what an earlier call has finished; a damaged file is recorded again."""
        for state in self.candidates:
            path = self.path(state)
            try:
                self.outcomes[state] = read_staged(path, self.task, spec, self.description_key).success
            except FileNotFoundError:
                continue
            except ConfigurationError as error:
                why = str(error).partition(";")[0]
                print(f"recording {self.task.id}, initial state {state}, again: {why}", file=sys.stderr)
                remove_damaged(path)

    def next_state(self) -> int | None:
        """The next initial state to try; None if those that run could be enough or none is left.

        Never looking further ahead than needed makes what is tried independent of who finishes first.
        """
        if sum(self.outcomes.values()) + len(self.running) >= self.episodes:
            return None
        return next(
            (state for state in self.candidates if state not in self.outcomes | dict.fromkeys(self.running)), None
        )

    def is_recorded(self) -> bool:
        return not self.running and self.next_state() is None

    def write(self, suite: Suite) -> None:
        """Turn the staged successes into the dataset."""
        succeeded = sorted(state for state, success in self.outcomes.items() if success)[: self.episodes]
        tried = [state for state in self.candidates if state in self.outcomes]
        if not succeeded:
            raise ConfigurationError(
                f"the expert of {self.task.id} succeeded in 0 of {len(tried)} episodes, so there is nothing to learn "
                "from; lower the noise, raise the suite's max_steps or leave the task out"
            )
        if len(succeeded) < self.episodes:
            tqdm.write(
                f"{self.task.id}: {len(succeeded)} demonstrations instead of {self.episodes}, for {len(tried)} initial "
                "states were tried",
                file=sys.stderr,
            )
        about = {
            "key": self.description_key,
            **self.description,
            "initial_states": succeeded,
            "failed_initial_states": [state for state in tried if not self.outcomes[state]],
            "versions": versions(),
        }
        trajectories = (
            read_staged(self.path(state), self.task, suite.spec, self.description_key) for state in succeeded
        )
        lengths: list[int] = []
        write_dataset(self.target, suite.spec, counted(trajectories, lengths), about)
        tell_of_hold(self.task, self.hold, lengths)
        shutil.rmtree(self.staging)
        self.held.close()


def _initial_states(suite: Suite, episodes: int) -> Sequence[int]:
    """As many as may be tried; fewer if the suite does not have that many, but one per episode."""
    for count in range(ATTEMPTS_PER_EPISODE * episodes, episodes, -1):
        try:
            return suite.initial_states("train", count)
        except ConfigurationError:
            continue
    return suite.initial_states("train", episodes)


def _collect_missing(suite: Suite, jobs: Sequence[_Job], recipe: Recipe, workers: int, progress: bool) -> None:
    """Simulate in processes; write each finished task in a thread meanwhile."""
    for job in jobs:
        job.find_staged(suite.spec)
    before = children()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (suite, in_main_thread()))
    writer = ThreadPoolExecutor(1)
    total = sum(job.episodes for job in jobs)
    bar: tqdm[Never] = tqdm(total=total, desc="recording demonstrations", unit="episode", disable=not progress)
    try:
        with bar:
            writing = [
                writer.submit(job.write, suite) for job in _record_all(suite, jobs, recipe, pool, 2 * workers, bar)
            ]
        wait(writing)  # all of them, before the first error is raised
        for written in writing:
            written.result()
    except BrokenProcessPool as error:
        kill_children(since=before)
        raise RuntimeError(
            "a worker process died while it recorded demonstrations, perhaps for lack of memory; finished episodes are "
            "kept, so run the same again, with fewer workers"
        ) from error
    except BaseException:  # Ctrl-C and the end of a job as well: a worker may be in the middle of an episode, or hang
        kill_children(since=before)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        writer.shutdown(cancel_futures=True)


def _record_all(
    suite: Suite, jobs: Sequence[_Job], recipe: Recipe, pool: ProcessPoolExecutor, ahead: int, bar: tqdm[Never]
) -> Iterator[_Job]:
    """Record every job, at most ``ahead`` episodes submitted at a time; give a job when it is recorded."""
    running: dict[Future[tuple[bool, int]], tuple[_Job, int]] = {}
    pending = list(jobs)
    pictures, started = 0, time.monotonic()
    bar.update(sum(min(sum(job.outcomes.values()), job.episodes) for job in jobs))
    while pending:
        for job in [job for job in pending if job.is_recorded()]:
            pending.remove(job)
            yield job
        for job in pending:
            while len(running) < ahead and (state := job.next_state()) is not None:
                job.running.add(state)
                running[pool.submit(_record, job.task, state, recipe, job.path(state), job.description_key)] = (
                    job,
                    state,
                )
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job, state = running.pop(future)
            success, steps = future.result()
            job.running.discard(state)
            job.outcomes[state] = success
            pictures += steps * len(suite.spec.cameras)
            bar.update(int(success))
        bar.set_postfix_str(_summary(jobs, pictures / (time.monotonic() - started)))


def _summary(jobs: Sequence[_Job], pictures_per_second: float) -> str:
    outcomes = [success for job in jobs for success in job.outcomes.values()]
    rate = sum(outcomes) / max(1, len(outcomes))
    return f"{rate:.0%} succeed, {pictures_per_second:.0f} pictures/s"


@dataclass
class _Worker:
    """What a worker process keeps between episodes."""

    suite: Suite
    task: Task | None = None
    environment: Environment | None = None
    expert: Expert | None = None

    def enter(self, task: Task) -> tuple[Environment, Expert]:
        """The world of a task; it stays open until another task is entered."""
        if self.environment is None or self.expert is None or self.task != task:
            if self.environment is not None:
                self.environment.close()
            self.task, self.environment, self.expert = None, None, None
            self.environment, self.expert = self.suite.make_environment(task), self.suite.make_expert(task)
            self.task = task
        return self.environment, self.expert


_worker: _Worker


def _start_worker(suite: Suite, started_in_main_thread: bool) -> None:
    global _worker
    end_with_parent(started_in_main_thread)
    choose_gl_backend(worker=True)
    _worker = _Worker(suite)


def _record(task: Task, initial_state: int, recipe: Recipe, path: Path, key: str) -> tuple[bool, int]:
    """In a worker: record and stage one episode; its success and number of recorded steps."""
    environment, expert = _worker.enter(task)
    trajectory = record_episode(environment, expert, task, initial_state, _worker.suite.spec, recipe)
    require_two_frames(trajectory, recipe.hold)
    stage(path, trajectory, key)
    return trajectory.success, len(trajectory)


_verdicts: dict[Path, tuple[object, str | None]] = {}
"""What this process has found in datasets, by folder, each for the state of its files then."""


def _damage(target: Path) -> str | None:
    """What is wrong with a recorded dataset, in words; None: nothing. Read again only if its files have changed."""
    state = tuple(
        (str(path), (found := path.stat()).st_size, found.st_mtime_ns, found.st_ino)
        for path in sorted(target.rglob("*"))
        if path.is_file()
    )
    if target not in _verdicts or _verdicts[target][0] != state:
        try:
            verify_manifest(target, "dataset", "it is recorded anew")
            _verdicts[target] = state, None
        except ConfigurationError as error:
            _verdicts[target] = state, str(error).partition(";")[0]
    return _verdicts[target][1]


def _key_of(target: Path) -> str | None:
    """The key that a dataset was recorded under; None if it does not say."""
    try:
        key = read_json_object(target / METADATA, "what a dataset says of itself", "").get("key")
    except ConfigurationError:
        return None
    return key if isinstance(key, str) else None

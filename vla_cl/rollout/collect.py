"""Collect demonstrations from a suite's experts: in parallel, resumable, the same whatever the number of workers.

A finished episode is staged as a file, so an interrupted call continues where it stopped. Initial states are tried in
order until enough have succeeded, and a task's dataset holds the first successes in that order.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Never

from filelock import FileLock
from tqdm import tqdm

from vla_cl.envs.rendering import choose_gl_backend
from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.names import file_name
from vla_cl.rollout.demonstrations import (
    METADATA,
    Recipe,
    Record,
    content_key,
    describe,
    raise_if_disk_full,
    read_staged,
    record_episode,
    stage,
    staged_success,
    versions,
    write_dataset,
)
from vla_cl.types import ConfigurationError, Task

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
    if any(not job.is_done() for job in jobs.values()):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".collect.lock"):  # another run may be recording the same
            missing = [job for job in jobs.values() if not job.is_done()]
            _collect_missing(suite, missing, recipe, workers, progress)
    return [jobs[task.id].target for task in tasks]


@dataclass
class _Job:
    """The demonstrations of one task that are still to be recorded."""

    task: Task
    target: Path
    staging: Path
    description: dict[str, object]
    candidates: Sequence[int]
    episodes: int
    outcomes: dict[int, bool] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)

    @classmethod
    def plan(cls, suite: Suite, task: Task, folder: Path, recipe: Recipe) -> _Job:
        description = describe(suite, task, recipe)
        name = f"{file_name(task.name)}-{content_key(description)[:12]}"
        staging = folder / ".staging" / suite.name / name
        candidates = _initial_states(suite, recipe.episodes)
        return cls(task, folder / suite.name / name, staging, description, candidates, recipe.episodes)

    def is_done(self) -> bool:
        if not self.target.exists():
            return False
        metadata = self.target / METADATA
        if not metadata.is_file() or json.loads(metadata.read_text()).get("key") != content_key(self.description):
            raise ConfigurationError(f"{self.target} exists but is not what this call would record; move it away")
        return True

    def path(self, initial_state: int) -> Path:
        return self.staging / f"{initial_state}.npz"

    def find_staged(self) -> None:
        """Take over what an earlier call has finished; a damaged file is recorded again."""
        for state in self.candidates:
            try:
                self.outcomes[state] = staged_success(self.path(state))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self.path(state).unlink()

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
            "key": content_key(self.description),
            **self.description,
            "initial_states": succeeded,
            "failed_initial_states": [state for state in tried if not self.outcomes[state]],
            "versions": versions(),
        }
        trajectories = (read_staged(self.path(state), self.task) for state in succeeded)
        write_dataset(self.target, suite.spec, trajectories, about)
        shutil.rmtree(self.staging)
        with suppress(OSError):  # not empty: other tasks are being recorded
            self.staging.parent.rmdir()
            self.staging.parents[1].rmdir()


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
        job.find_staged()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (suite,))
    writer = ThreadPoolExecutor(1)
    bar: tqdm[Never] = tqdm(total=sum(job.episodes for job in jobs), unit="episode", disable=not progress)
    try:
        with bar:
            writing = [
                writer.submit(job.write, suite) for job in _record_all(suite, jobs, recipe, pool, 2 * workers, bar)
            ]
        wait(writing)  # all of them, before the first error is raised
        for written in writing:
            written.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died while it recorded demonstrations, perhaps for lack of memory; finished episodes are "
            "kept, so run the same again, with fewer workers"
        ) from error
    except OSError as error:
        raise_if_disk_full(error, jobs[0].target.parents[1])
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
                running[pool.submit(_record, job.task, state, recipe, job.path(state))] = (job, state)
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


def _start_worker(suite: Suite) -> None:
    global _worker
    choose_gl_backend(worker=True)
    _worker = _Worker(suite)


def _record(task: Task, initial_state: int, recipe: Recipe, path: Path) -> tuple[bool, int]:
    """In a worker: record and stage one episode; its success and number of recorded steps."""
    environment, expert = _worker.enter(task)
    trajectory = record_episode(environment, expert, task, initial_state, _worker.suite.spec, recipe)
    stage(path, trajectory)
    return trajectory.success, len(trajectory)

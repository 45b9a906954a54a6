"""What to roll out, and what is kept of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from vla_cl.interfaces import Method, Policy, Suite
from vla_cl.rollout.engine import Engine, Progress
from vla_cl.rollout.video import write_video
from vla_cl.storage.names import VIDEOS, file_name
from vla_cl.types import ConfigurationError, Episode, EpisodeRequest, Split, Task


@dataclass(frozen=True)
class EvaluationSettings:
    """How tasks are rolled out.

    Attributes:
        episodes: Reporting initial states per task.
        replan_every: Actions executed of each predicted chunk.
        future_tasks: Also roll out tasks that have not been learnt yet.
        untrained: Also roll out the policy before any learning.
        curve_points: Evaluations while a task is learnt, on the selection states.
        curve_episodes: Initial states of those.
        videos: Filmed episodes per task and evaluation.
        workers: Simulator processes.
        slots_per_worker: Episodes that a worker runs at the same time.
        check_render_profile: Refuse a policy that learnt from pictures of another look.
        batch_size: Observations to collect before the policy is asked; None: half of the slots, so that the others
            are simulated meanwhile. No result depends on it.
        deadline: Seconds of silence after which a worker counts as hanging and is replaced.
        max_attempts: How often an episode whose simulator fails is tried before it is an error.

    Raises:
        ConfigurationError: A number is out of range.
    """

    episodes: int = 20
    replan_every: int = 8
    future_tasks: bool = False
    untrained: bool = False
    curve_points: int = 0
    curve_episodes: int = 10
    videos: int = 1
    workers: int = 2
    slots_per_worker: int = 4
    check_render_profile: bool = True
    batch_size: int | None = None
    deadline: float = 300.0
    max_attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("episodes", "replan_every", "curve_episodes", "workers", "slots_per_worker", "max_attempts"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"evaluation.{name} must be at least 1; got {getattr(self, name)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigurationError(f"evaluation.batch_size must be null or at least 1; got {self.batch_size}")
        if not 0 < self.deadline < float("inf"):
            raise ConfigurationError(f"evaluation.deadline is a number of seconds above 0; got {self.deadline}")
        for name in ("curve_points", "videos"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"evaluation.{name} must not be negative; got {getattr(self, name)}")


def requests(
    suite: Suite, tasks: Sequence[Task], settings: EvaluationSettings, split: Split = "report"
) -> list[EpisodeRequest]:
    """The first initial states of a split for every task; the first ``settings.videos`` of each are filmed."""
    states = suite.initial_states(split, settings.episodes)
    return [
        EpisodeRequest(task, split, state, film=position < settings.videos)
        for task in tasks
        for position, state in enumerate(states)
    ]


def make_engine(suite: Suite, settings: EvaluationSettings) -> Engine:
    """The rollout engine that the settings ask for."""
    return Engine(
        suite,
        workers=settings.workers,
        slots_per_worker=settings.slots_per_worker,
        replan_every=settings.replan_every,
        batch_size=settings.batch_size,
        max_attempts=settings.max_attempts,
        deadline=settings.deadline,
        check_render_profile=settings.check_render_profile,
    )


def roll_out(
    engine: Engine,
    policy: Policy,
    wanted: Sequence[EpisodeRequest],
    method: Method | None = None,
    progress: Progress = True,
) -> list[Episode]:
    """The episodes asked for, in this order; task by task where the method must be told which task is served.

    Args:
        engine: See `Engine.run`, also for ``progress`` and what is raised.
        policy: Who acts.
        wanted: Requests, those of a task next to each other.
        method: The method behind the policy; None for a policy that serves every task as it is.
        progress: Of each call of the engine.

    Raises:
        ConfigurationError: The method cannot serve a task.
    """
    if method is None or not method.task_id_at_test:
        return engine.run(policy, wanted, progress)
    episodes: list[Episode] = []
    try:
        for task, some in groupby(wanted, key=attrgetter("task")):
            method.select_task(task)
            episodes += engine.run(policy, list(some), progress)
    finally:
        method.select_task(None)
    return episodes


def save_video(episode: Episode, folder: Path, fps: float, prefix: str = "") -> str | None:
    """Write an episode's film to ``folder/videos``; its path relative to ``folder``, or None if it was not filmed."""
    if episode.frames is None or not len(episode.frames):
        return None
    task = file_name(episode.task.split("/", 1)[1])
    name = f"{VIDEOS}/{prefix}{task}-{episode.initial_state}-{episode.outcome.value}.mp4"
    write_video(folder / name, episode.frames, fps)
    return name


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: while simulators run, its other threads would only take their cores away."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

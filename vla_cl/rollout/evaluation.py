"""What to roll out, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_cl.interfaces import Suite
from vla_cl.rollout.video import write_video
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

    def __post_init__(self) -> None:
        for name in ("episodes", "replan_every", "curve_episodes", "workers", "slots_per_worker"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"evaluation.{name} must be at least 1; got {getattr(self, name)}")
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


def save_videos(episodes: Sequence[Episode], folder: Path, experience: int, fps: float) -> dict[int, str]:
    """Write what was filmed to ``folder/videos``; position in ``episodes`` to path relative to ``folder``."""
    saved = {}
    for position, episode in enumerate(episodes):
        if episode.frames is None or not len(episode.frames):
            continue
        task = episode.task.split("/", 1)[1]
        name = f"videos/{experience}-{task}-{episode.initial_state}-{episode.outcome.value}.mp4"
        write_video(folder / name, episode.frames, fps)
        saved[position] = name
    return saved

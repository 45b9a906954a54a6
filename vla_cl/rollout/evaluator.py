"""Rollouts as an evaluator: success of a policy on a suite's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from vla_cl.interfaces import Evaluator, Model, Policy, Suite
from vla_cl.rollout.compatibility import check_interface, require_single_frames, skipped_rollouts
from vla_cl.rollout.engine import Engine
from vla_cl.rollout.evaluation import EvaluationSettings, make_engine, one_thread, requests, save_video
from vla_cl.rollout.progress import ProgressBar
from vla_cl.rollout.table import EPISODES, EVALUATOR_COLUMNS, EpisodeLayout
from vla_cl.scores import SUCCESS, EvaluationRequest, Trial
from vla_cl.storage.manifest import run_key, write_manifest
from vla_cl.storage.names import VIDEOS
from vla_cl.types import Episode, EpisodeRequest, Outcome, Split, Stream, Task


class RolloutEvaluator(Evaluator):
    """Rolls a policy out in a suite; a trial is an episode, its unit the initial state.

    Args:
        suite: Where tasks are rolled out.
        stream: What is learnt; its tasks that the suite offers are rolled out.
        settings: How. The number of episodes is the request's; reported episodes may be filmed, others are not.
        folder: Whose ``videos`` films go to.
    """

    measures = (SUCCESS,)
    columns = EVALUATOR_COLUMNS

    def __init__(self, suite: Suite, stream: Stream, settings: EvaluationSettings, folder: Path) -> None:
        self._suite = suite
        self._settings = settings
        self._folder = folder
        offered = {task.id for task in suite.tasks()}
        self._evaluable = {task.id for task in stream.tasks if task.id in offered}
        self._engine: Engine | None = None

    @property
    def layout(self) -> EpisodeLayout:
        """That of every episode table."""
        return EPISODES

    def __enter__(self) -> Self:
        """Simulators start at the first request."""
        self._engine = make_engine(self._suite, self._settings)
        self._engine.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Simulators end."""
        assert self._engine is not None
        self._engine.__exit__(kind, error, trace)
        self._engine = None

    def units(self, task: Task, split: Split, count: int) -> Sequence[int]:
        """Initial states."""
        return self._suite.initial_states(split, count) if task.id in self._evaluable else ()

    def why_nothing(self) -> str | None:
        """The suite has none of the tasks."""
        return None if self._evaluable else skipped_rollouts(self._suite)

    def fits(self, model: Model) -> None:
        """The policy must act from single frames, with the suite's cameras, sizes and conventions."""
        if not self._evaluable:
            return
        policy = _acting(model)
        require_single_frames(policy.name, policy.observation_offsets)
        check_interface(
            policy.spec,
            self._suite.spec,
            self._settings.replan_every,
            policy.chunk_size,
            self._settings.check_render_profile,
        )

    def evaluate(self, model: Model, request: EvaluationRequest) -> list[Trial]:
        """Episodes, all tasks side by side."""
        tasks = [task for task in request.tasks if task.id in self._evaluable]
        if not tasks:
            return []
        assert self._engine is not None, "enter the evaluator first"
        videos = self._settings.videos if request.split == "report" else 0
        settings = replace(self._settings, episodes=request.count, videos=videos)
        wanted = [
            episode
            for episode in requests(self._suite, tasks, settings, request.split)
            if (episode.task.id, episode.initial_state) not in request.known
        ]
        trials = self._roll_out(_acting(model), wanted, request) if wanted else []
        if videos and (self._folder / VIDEOS).is_dir():  # also of those that a kill left without
            write_manifest(self._folder / VIDEOS, run_key(self._folder))
        return trials

    def _roll_out(self, policy: Policy, wanted: Sequence[EpisodeRequest], request: EvaluationRequest) -> list[Trial]:
        """Each episode is written down as it ends, its film before it."""
        engine, look = self._engine, self._suite.spec.render_profile
        assert engine is not None
        made: dict[tuple[str, int], Trial] = {}

        with one_thread(), ProgressBar(len(wanted), shown=True) as bar:

            def keep(episode: Episode) -> None:
                film = save_video(episode, self._folder, engine.film_fps, prefix=f"{request.experience}-")
                trial = made[episode.task, episode.initial_state] = trial_of(episode, look, film)
                request.write_down(trial)
                bar.advance(episode)

            engine.run(policy, wanted, keep)
        return [made[episode.task.id, episode.initial_state] for episode in wanted]


def trial_of(episode: Episode, render_profile: str | None, video: str | None) -> Trial:
    """An episode as a trial; a crashed one counts as no success."""
    crashed = episode.outcome is Outcome.ERROR
    return Trial(
        task=episode.task,
        unit=episode.initial_state,
        status="error" if crashed else "ok",
        values={SUCCESS.name: float(episode.outcome is Outcome.SUCCESS)},
        columns={
            "outcome": episode.outcome.value,
            "env_steps": episode.env_steps,
            "decisions": episode.decisions,
            "total_reward": episode.total_reward,
            "video": video,
            "render_profile": render_profile,
        },
        seconds=episode.seconds,
        error=episode.error,
    )


def _acting(model: Model) -> Policy:
    if not isinstance(model, Policy):
        raise TypeError(f"rollouts need a model that acts (a Policy), not {type(model).__name__}")
    return model

"""Scores of a robot policy without a simulator: how far its actions are from those of episodes it has not learnt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.data.action_groups import Groups
from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frames import Frames
from vla_cl.data.held_out import held_out_episodes
from vla_cl.data.source import Source
from vla_cl.interfaces import Evaluator, Model
from vla_cl.models.randomness import evaluating
from vla_cl.models.vla import VlaModel, horizon
from vla_cl.random_numbers import Purpose, number
from vla_cl.scores import EvaluationRequest, Measure, Trial
from vla_cl.types import Batch, ConfigurationError, Draw, Split, Task

ALARM = (
    "A held-out error is an alarm, not a ranking: a large one says that a task is lost, but of two small ones the "
    "smaller need not be the better policy's. Success of rollouts ranks policies."
)
"""What the report says of these measures."""

LOSS = Measure("held_out_loss", "lower", "mean", title="loss on held-out episodes", note=ALARM)
_REPORTED = 3 / 4
"""Share of a dataset's held-out episodes that are reported; the others select."""


@dataclass(frozen=True)
class HeldOutSettings:
    """How held-out episodes are scored on.

    Attributes:
        frames: Frames of each episode; 0: all.
        groups: Which numbers of an action belong together; None: as the data name them.
    """

    frames: int = 32
    groups: Mapping[str, Sequence[int]] | None = None


def measures_of(groups: Groups) -> tuple[Measure, ...]:
    """Mean absolute errors of each group over the chunk and at its first action, then the loss.

    The group that is named first comes first, so it is what reports show.
    """
    parts = (("chunk", "over the chunk"), ("first", "at the first action"))
    return (
        *(
            Measure(f"{part}_{group}_error", "lower", "mean", 0.0, title=f"{group} error {where}", note=ALARM)
            for part, where in parts
            for group in groups
        ),
        LOSS,
    )


class HeldOutEpisodes(Evaluator):
    """Compares a policy's chunks with the actions of held-out episodes; a trial is an episode.

    Of each episode the same frames are looked at: the first and the last, and others evenly spread. Actions behind
    the end of the episode do not count. Errors are means of absolute differences, in the data's units, over the numbers
    of a group, the actions of a chunk and the frames of the episode.

    Args:
        sources: The data of each task id; what they hold out is scored on.
        groups: Which numbers of an action belong together.
        frames: Frames of each episode; 0: all.
        cache: Folder for decoded pictures.
    """

    columns = {"dataset": "string", "episode": "int64", "frames": "int64"}  # noqa: RUF012 - as the interface has it

    def __init__(self, sources: Mapping[str, Sequence[Source]], groups: Groups, frames: int, cache: Path) -> None:
        self.measures = measures_of(groups)
        self._sources = {task: [source.held_out for source in listed] for task, listed in sources.items()}
        self._groups = groups
        self._most = frames
        self._cache = cache
        self._units: dict[str, dict[Split, list[int]]] = {}
        self._places: dict[str, list[tuple[int, int]]] = {}  # task id -> source and episode of each unit
        self._frames: dict[str, Frames] = {}

    def units(self, task: Task, split: Split, count: int) -> Sequence[int]:
        """Places among the task's held-out episodes: of each dataset three quarters report, the others select.

        All of them, whatever number is asked for: they are few, and nothing has to be simulated.
        """
        if task.id not in self._sources:
            return ()
        if task.id not in self._units:
            self._look(task.id)
        return self._units[task.id].get(split, ())

    def evaluate(self, model: Model, request: EvaluationRequest) -> list[Trial]:
        """One trial for each episode.

        Raises:
            ConfigurationError: The policy's actions are of another size than the data's.
            FloatingPointError: A score is no number.
        """
        policy = _policy(model)
        trials = []
        for task in request.tasks:
            for unit in request.missing(task, self.units(task, request.split, request.count)):
                trials.append(self._trial(policy, task, unit))
                request.write_down(trials[-1])
        return trials

    def _look(self, task: str) -> None:
        """Number the episodes of a task: source after source, each in the random order of its ranking."""
        places, units = [], {"report": [], "select": []}  # type: ignore[var-annotated]
        for number_of_source, source in enumerate(self._sources[task]):
            episodes = held_out_episodes(DatasetFolder(source.root), source).tolist()
            first = max(1, int(len(episodes) * _REPORTED))
            start = len(places)
            units["report"] += range(start, start + first)
            units["select"] += range(start + first, start + len(episodes))
            places += [(number_of_source, episode) for episode in episodes]
        self._places[task], self._units[task] = places, units  # type: ignore[assignment]

    def _trial(self, policy: VlaModel, task: Task, unit: int) -> Trial:
        began = time.perf_counter()
        frames = self._of(task.id, policy)
        source, episode = self._places[task.id][unit]
        rows = self._rows(frames, source, episode)
        batch = frames.batch(rows)
        with torch.no_grad(), evaluating(policy.module):
            values = self._errors(policy, batch) | {LOSS.name: self._loss(policy, batch, unit)}
        if wrong := next((name for name, value in values.items() if not np.isfinite(value)), None):
            raise FloatingPointError(
                f"{wrong} of task {task.id!r} is no number; the model has diverged, lower training.learning_rate"
            )
        root = self._sources[task.id][source].root
        columns = {"dataset": root.name, "episode": episode, "frames": len(rows)}
        return Trial(task.id, unit, "ok", values, columns, time.perf_counter() - began)

    def _errors(self, policy: VlaModel, batch: Batch) -> dict[str, float]:
        """Mean absolute error of each group, at the first action and over the chunk."""
        # 1. Targets from the sample's own frame on: a policy may also learn actions of the frames before.
        offsets = horizon(policy.policy.config).actions
        ahead = [place for place, offset in enumerate(offsets) if 0 <= offset < policy.chunk_size]
        wanted = batch["action"][:, ahead].numpy()
        counts = ~batch["action_is_pad"][:, ahead].numpy()  # (B, chunk)
        # 2. What the policy gives, in the same units.
        given = policy.chunks(batch)[:, [offsets[place] for place in ahead]]
        if given.shape != wanted.shape:
            raise ConfigurationError(
                f"{policy.name} gives actions of {given.shape[-1]} numbers, the data have {wanted.shape[-1]}"
            )
        # 3. Means, over what is within the episode.
        apart = np.abs(given.astype(np.float64) - wanted)
        errors = {}
        for group, places in self._groups.items():
            of_action = apart[..., list(places)].mean(axis=-1)
            errors[f"chunk_{group}_error"] = float(of_action[counts].mean())
            errors[f"first_{group}_error"] = float(of_action[:, 0].mean())
        return errors

    @staticmethod
    def _loss(policy: VlaModel, batch: Batch, unit: int) -> float:
        """The training loss, without dropout or augmentation, under noise that the episode's place decides."""
        draw = Draw(number(0, Purpose.HELD_OUT_LOSS, unit))
        return float(policy.loss(batch, draw).double().mean())

    def _rows(self, frames: Frames, source: int, episode: int) -> NDArray[np.int64]:
        of_source, of_episode = frames.recorded_places
        rows = np.flatnonzero((of_source == source) & (of_episode == episode))
        if not self._most or len(rows) <= self._most:
            return rows
        return rows[np.unique(np.linspace(0, len(rows) - 1, self._most).round().astype(np.int64))]

    def _of(self, task: str, policy: VlaModel) -> Frames:
        if task not in self._frames:
            window = horizon(policy.policy.config)
            self._frames[task] = Frames(self._sources[task], self._cache, window.actions, window.observations)
        return self._frames[task]


def _policy(model: Model) -> VlaModel:
    if not isinstance(model, VlaModel):
        raise TypeError(f"held-out episodes are for robot policies (VlaModel), not for {type(model).__name__}")
    return model

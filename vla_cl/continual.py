"""A run from its first experience to its last: learn, evaluate, write, remember; then the next."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vla_cl import checkpoint
from vla_cl.checkpoint import Progress
from vla_cl.data.frames import Frames, spec_of_all
from vla_cl.data.normalisation import frozen_statistics
from vla_cl.data.reused_memory import memory_of, reused_memory
from vla_cl.data.run_data import require_unchanged
from vla_cl.data.source import Source
from vla_cl.interfaces import Data, Method, Suite
from vla_cl.manifest import RUN_FORMAT
from vla_cl.memory.replay_memory import COPIES
from vla_cl.models.chosen import PolicySettings
from vla_cl.models.stored_policy import CONVENTIONS
from vla_cl.models.vla import VlaModel, horizon, policy_config
from vla_cl.models.warm_start import fit_to_data
from vla_cl.rollout.compatibility import check_interface, require_fit, require_single_frames, skipped_rollouts
from vla_cl.rollout.engine import Engine
from vla_cl.rollout.evaluation import (
    EvaluationSettings,
    make_engine,
    one_thread,
    requests,
    roll_out,
    save_videos,
)
from vla_cl.rollout.table import EpisodeTable
from vla_cl.run_folder import RunFolder, machine, versions
from vla_cl.tracking import Tracker
from vla_cl.train import TrainingSettings, learn
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, Experience, Split, Stream, Task

LOG_EVERY = 10


@dataclass(frozen=True)
class Identity:
    """What a run is called in its ``run.json``."""

    name: str
    method: str
    policy: str
    suite: str
    arrangement: str


class ContinualRun:
    """One policy, one stream, one method, one folder.

    Args:
        identity: Names for ``run.json``.
        suite: Where tasks are rolled out.
        stream: What is learnt, in order.
        sources: The data of each task id.
        method: The continual-learning method; not attached to a model yet.
        policy: Which policy.
        training: Steps, batch size, learning rate.
        evaluation: How tasks are rolled out.
        train_seed: Initial weights, order of samples, noise of the loss, replay.
        frame_cache: Folder for decoded pictures.
        folder: Where results go; a run found there is continued.
    """

    def __init__(
        self,
        identity: Identity,
        suite: Suite,
        stream: Stream,
        sources: Mapping[str, Sequence[Source]],
        method: Method,
        policy: PolicySettings,
        training: TrainingSettings,
        evaluation: EvaluationSettings,
        train_seed: int,
        frame_cache: Path,
        folder: RunFolder,
    ) -> None:
        self._identity = identity
        self._suite = suite
        self._stream = stream
        self._sources = sources
        self._given = method
        self._method = method
        self._policy = policy
        self._training = training
        self._evaluation = evaluation
        self._train_seed = train_seed
        self._frame_cache = frame_cache
        self._folder = folder
        self._table = EpisodeTable()
        self._loaded: dict[int, Frames] = {}
        self._passed_over: tuple[str, ...] = ()
        offered = {task.id for task in suite.tasks()}
        self._evaluable = {task.id for task in stream.tasks if task.id in offered}

    @property
    def _skipped(self) -> str | None:
        """Why nothing is rolled out, in words; None if something is."""
        return None if self._evaluable else skipped_rollouts(self._suite)

    def go(self, tracker: Tracker) -> None:
        """Learn what has not been learnt yet.

        Raises:
            ConfigurationError: Data, policy and suite do not fit together.
            FloatingPointError: Training diverged.
        """
        model, progress = self._start()
        self._passed_over += tracker.continue_after(progress.step)
        self._require_rollouts(model)
        with make_engine(self._suite, self._evaluation) as engine:
            for experience in self._stream.experiences[progress.experiences_done :]:
                if self._stream.independent and experience.index:
                    model = self._begin(experience)
                    self._require_rollouts(model)
                if self._evaluation.untrained and (self._stream.independent or experience.index == 0):
                    untrained = experience.tasks if self._stream.independent else self._stream.tasks
                    after = self._evaluate(engine, model, -1, untrained, replace(progress, step=0))
                    progress = replace(after, step=progress.step)
                progress = self._learn(engine, model, experience, progress, tracker)
                progress = self._evaluate(
                    engine, model, experience.index, self._tasks_to_evaluate(experience), progress
                )
                progress = replace(progress, experiences_done=experience.index + 1)
                self._folder.write_results(
                    self._table, self._stream, progress.experiences_done, self._evaluation.curve_episodes
                )
                tracker.flush()
                progress = replace(progress, passed_over=self._passed_over)
                checkpoint.save(self._folder.checkpoints, model, self._method, progress, self._table.write)
                if (memory := memory_of(self._method)) is not None:
                    memory.settle()
                self._write_summary(model, progress)
        self._write_summary(model, progress)

    def _start(self) -> tuple[VlaModel, Progress]:
        """The model and the progress of the newest checkpoint, or of the beginning."""
        newest = checkpoint.find_newest(self._folder.checkpoints)
        if newest is None:
            progress = Progress(0, step=0, train_seconds=0.0, evaluate_seconds=0.0)
            model = self._begin(self._stream.experiences[0])
        else:
            found = newest.folder
            checkpoint.point_at(found)  # a kill right after the checkpoint left `last` at the one before
            progress = checkpoint.load_progress(found)
            self._passed_over = progress.passed_over + newest.passed_over
            self._table = self._episodes_of(found, progress)
            model = VlaModel.load(found / "pretrained_model", self._policy.device)
            self._method = copy.deepcopy(self._given)  # which stays as it is, for an experience that begins anew
            self._method.attach(model, self._train_seed)
            past = self._stream.experiences[: progress.experiences_done]
            known = past[-1:] if self._stream.independent else past
            data = ((self._as_learnt(experience), self._data(experience, model)) for experience in known)
            checkpoint.load_method(found, self._method, chain(self._before_the_first(model), data))
            if (memory := memory_of(self._method)) is not None:
                memory.settle()  # a kill right after the checkpoint left copies that it does not name
            print(self._folder.stage(progress.experiences_done, len(self._stream)))
        done = progress.experiences_done
        self._folder.write_results(self._table, self._stream, done, self._evaluation.curve_episodes)
        self._write_summary(model, progress)
        return model, progress

    def _require_rollouts(self, model: VlaModel) -> None:
        """Refuse a model that cannot act in the suite, if anything is to be rolled out."""
        if not self._evaluable:
            return
        require_single_frames(model.name, horizon(model.policy.config).observations)
        check_interface(
            model.spec,
            self._suite.spec,
            self._evaluation.replan_every,
            model.chunk_size,
            self._evaluation.check_render_profile,
        )

    def _begin(self, first: Experience) -> VlaModel:
        """A new model and a method that has met none: what a run of this experience alone begins with."""
        self._method = copy.deepcopy(self._given)
        model = self._new_model(first)
        self._method.attach(model, self._train_seed)
        memory = memory_of(self._method)
        for earlier, remembered in self._before_the_first(model):
            assert memory is not None  # whose settings named it
            memory.adopt(earlier.name, earlier.index, remembered, model)
        return model

    def _as_learnt(self, experience: Experience) -> Experience:
        """What loop and method are told: alone, every experience is the first."""
        return replace(experience, index=0) if self._stream.independent else experience

    def _episodes_of(self, found: Path, progress: Progress) -> EpisodeTable:
        """The episode table up to a checkpoint: its own copy, or, of a version that wrote none, the run's table.

        Raises:
            ConfigurationError: Episodes of an experience that has been learnt are missing.
        """
        path = found / checkpoint.EPISODES
        table = EpisodeTable.read(path) if path.is_file() else self._folder.episodes()
        if not self._evaluable:
            return table
        states = self._suite.initial_states("report", self._evaluation.episodes)
        for experience in self._stream.experiences[: progress.experiences_done]:
            tasks = [task.id for task in self._tasks_to_evaluate(experience) if task.id in self._evaluable]
            missing = {(task, state) for task in tasks for state in states} - table.reported(experience.index)
            if missing:
                raise ConfigurationError(
                    f"the episode table of {short(self._folder.root)} lacks {len(missing)} episodes of experience "
                    f"{experience.index}, which its checkpoint implies; restore episodes.parquet, "
                    "or start again with output_dir=<a new folder>"
                )
        return table

    def _before_the_first(self, model: VlaModel) -> list[tuple[Experience, Data]]:
        """What the method's memory starts with; also tells it where copies go."""
        if (memory := memory_of(self._method)) is not None:
            memory.keep_in(self._folder.root / COPIES)
        window = horizon(model.policy.config)
        found = reused_memory(self._method, self._frame_cache, window.actions, window.observations)
        for _, data in found:
            require_fit(model.spec, data.spec, "the policy")
        return list(found)

    def _new_model(self, first: Experience) -> VlaModel:
        """The warm start, or new weights; normalised by the first experience's data."""
        spec = spec_of_all(self._sources_of(first))
        if (named := self._policy.warm_start) is not None:
            self._passed_over = tuple(dict.fromkeys((*self._passed_over, *self._policy.passed_over)))
            adapt = partial(fit_to_data, fields=self._policy.fields, spec=spec, where=named)
            model = VlaModel.load(named, self._policy.device, adapt)
            require_fit(model.spec, spec, f"checkpoint {named}")
            model.complete_conventions(spec)
            model.fps = self._rate(first)  # whatever it learnt before
            if self._policy.normalisation == "checkpoint":
                model.require_statistics()
                return model
            model.normalise_with(frozen_statistics(self._data(first, model)))
            return model
        config = policy_config(self._policy.kind, self._policy.fields, spec, self._policy.device)
        frames = self._loaded[first.index] = self._frames(first, config)
        conventions = {name: getattr(spec, name) for name in CONVENTIONS} | {"fps": self._rate(first)}
        return VlaModel.new(config, frozen_statistics(frames), self._train_seed, **conventions)

    def _rate(self, first: Experience) -> float | None:
        """Actions per second of all that the model will learn; None if its datasets have several rates."""
        learnt = (first,) if self._stream.independent else self._stream.experiences
        return spec_of_all([source for experience in learnt for source in self._sources_of(experience)]).fps

    def _learn(
        self, engine: Engine, model: VlaModel, experience: Experience, progress: Progress, tracker: Tracker
    ) -> Progress:
        data = self._data(experience, model)
        require_fit(model.spec, data.spec, "the policy")
        model.complete_conventions(data.spec)
        total = self._training.steps * len(experience.tasks)
        points = curve_steps(total, self._evaluation.curve_points)
        rolled_out = progress
        if 0 in points:
            rolled_out = self._curve_point(engine, model, experience, rolled_out, 0)
        first_step = 0 if self._stream.independent else progress.step
        began, samples = time.perf_counter(), 0
        label = f"learning {experience.name} ({experience.index + 1}/{len(self._stream)})"
        with tqdm(total=total, desc=label, unit="step") as bar:
            for report in learn(
                model, self._method, self._as_learnt(experience), data, self._training, self._train_seed, first_step
            ):
                samples += report.samples
                bar.update()
                if report.step % LOG_EVERY == 0 or report.step == total:
                    bar.set_postfix_str(f"loss {report.loss:.3f}", refresh=False)
                    figures = {
                        key: value for key, value in asdict(report).items() if key not in ("step", "total", "seconds")
                    }
                    speed = samples / (time.perf_counter() - began)
                    step = progress.step + report.step
                    tracker.log(step, experience=experience.index, samples_per_second=round(speed, 1), **figures)
                if report.step in points:
                    paused = time.perf_counter()
                    rolled_out = self._curve_point(engine, model, experience, rolled_out, report.step)
                    began += time.perf_counter() - paused  # rollouts are not training
        seconds = time.perf_counter() - began
        return replace(rolled_out, step=progress.step + total, train_seconds=rolled_out.train_seconds + seconds)

    def _curve_point(
        self, engine: Engine, model: VlaModel, experience: Experience, progress: Progress, done: int
    ) -> Progress:
        """Success on what is being learnt, on the selection states: a point of the learning curve."""
        settings = replace(self._evaluation, episodes=self._evaluation.curve_episodes, videos=0)
        at = replace(progress, step=self._training.steps * self._tasks_before(experience) + done)
        after = self._evaluate(engine, model, experience.index, experience.tasks, at, settings, "select")
        return replace(after, step=progress.step)

    def _evaluate(
        self,
        engine: Engine,
        model: VlaModel,
        experience: int,
        tasks: Sequence[Task],
        progress: Progress,
        settings: EvaluationSettings | None = None,
        split: Split = "report",
    ) -> Progress:
        settings = settings or self._evaluation
        offered = [task for task in tasks if task.id in self._evaluable]
        if not offered:
            return progress
        began = time.perf_counter()
        wanted = requests(self._suite, offered, settings, split)
        with one_thread():
            episodes = roll_out(engine, model, wanted, self._method)
        videos = save_videos(episodes, self._folder.root, experience, engine.film_fps)
        self._table.extend(
            episodes,
            experience=experience,
            step=progress.step,
            render_profile=self._suite.spec.render_profile,
            videos=videos,
        )
        return replace(progress, evaluate_seconds=progress.evaluate_seconds + time.perf_counter() - began)

    def _tasks_to_evaluate(self, experience: Experience) -> Sequence[Task]:
        if self._evaluation.future_tasks:
            return self._stream.tasks
        if self._stream.independent:
            return experience.tasks
        return Stream("met", self._stream.experiences[: experience.index + 1]).tasks

    def _tasks_before(self, experience: Experience) -> int:
        return sum(len(earlier.tasks) for earlier in self._stream.experiences[: experience.index])

    def _data(self, experience: Experience, model: VlaModel) -> Frames:
        if experience.index not in self._loaded:
            self._loaded[experience.index] = self._frames(experience, model.policy.config)
        return self._loaded[experience.index]

    def _frames(self, experience: Experience, config: Any) -> Frames:  # noqa: ANN401 - LeRobot's
        window, sources = horizon(config), self._sources_of(experience)
        frames = Frames(sources, self._frame_cache, window.actions, window.observations)
        require_unchanged(self._folder.root, [source.root for source in sources])  # after all of them has been read
        return frames

    def _sources_of(self, experience: Experience) -> list[Source]:
        return [source for task in experience.tasks for source in self._sources[task.id]]

    def _write_summary(self, model: VlaModel, progress: Progress) -> None:
        finished = progress.experiences_done == len(self._stream)
        spent = progress.train_seconds, progress.evaluate_seconds
        seconds = dict(zip(("train", "evaluate", "total"), (*spent, sum(spent)), strict=True))
        self._folder.write_summary(
            {
                "format": RUN_FORMAT,
                **asdict(self._identity),
                "stream": self._stream.name,
                "status": "finished" if finished else "running",
                "tasks": [{"id": task.id, "instruction": task.instruction} for task in self._stream.tasks],
                "experiences": [
                    {"name": experience.name, "tasks": [task.id for task in experience.tasks]}
                    for experience in self._stream
                ],
                "seeds": {"train_seed": self._train_seed, "eval_seed": 0},
                "render_profile": self._suite.spec.render_profile,
                "rollouts": {"tasks": sorted(self._evaluable), "skipped": self._skipped},
                "versions": versions(),
                "machine": machine(str(model.device)),
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "passed_over": list(self._passed_over),
                "told_the_task": self._method.task_id_at_test,
                "memory_bytes": self._method.memory_bytes(),
                "parameters": sum(p.numel() for p in model.module.parameters()),
                "steps": progress.step,
            }
        )


def curve_steps(total: int, points: int) -> set[int]:
    """Where a learning curve is measured: step 0 and ``points`` equal parts up to the end; nowhere for 0 points."""
    return {round(total * number / points) for number in range(points + 1)} if points else set()

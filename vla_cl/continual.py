"""A run from its first experience to its last: learn, evaluate, write, remember; then the next.

The same lines for every family of models: what is particular to one comes from its `Family`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from vla_cl import checkpoint
from vla_cl.checkpoint import Progress
from vla_cl.evaluation.table import TrialTable
from vla_cl.interfaces import Data, Evaluator, Family, Method, Model
from vla_cl.manifest import RUN_FORMAT
from vla_cl.memory.replay_memory import REUSED
from vla_cl.run_folder import RunFolder, machine, versions
from vla_cl.scores import EvaluationRequest
from vla_cl.tracking import Tracker
from vla_cl.train import TrainingSettings, learn
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, Experience, Stream, Task

LOG_EVERY = 10


@dataclass(frozen=True)
class Identity:
    """What a run is called in its ``run.json``."""

    name: str
    method: str
    arrangement: str


@dataclass(frozen=True)
class EvaluationPlan:
    """What a run evaluates, and when.

    Attributes:
        count: Reported trials of each task.
        future_tasks: Also tasks that have not been learnt yet.
        untrained: Also the model before any learning.
        curve_points: Evaluations while a task is learnt, on the selection split.
        curve_count: Trials of each of those.
    """

    count: int
    future_tasks: bool = False
    untrained: bool = False
    curve_points: int = 0
    curve_count: int = 10


class ContinualRun:
    """One model, one stream, one method, one folder.

    Args:
        identity: Names for ``run.json``.
        family: Model, data and evaluator.
        stream: What is learnt, in order.
        method: The continual-learning method; not attached to a model yet.
        training: Steps, batch size, learning rate.
        plan: What is evaluated, and when.
        train_seed: Initial weights, order of samples, noise of the loss, replay.
        folder: Where results go; a run found there is continued.
    """

    def __init__(
        self,
        identity: Identity,
        family: Family,
        stream: Stream,
        method: Method,
        training: TrainingSettings,
        plan: EvaluationPlan,
        train_seed: int,
        folder: RunFolder,
    ) -> None:
        self._identity = identity
        self._family = family
        self._stream = stream
        self._given = method
        self._method = method
        self._training = training
        self._plan = plan
        self._train_seed = train_seed
        self._folder = folder
        self._passed_over: tuple[str, ...] = ()
        self._evaluator = family.evaluator()
        self._table = TrialTable(self._evaluator.layout)

    def go(self, tracker: Tracker) -> None:
        """Learn what has not been learnt yet.

        Raises:
            ConfigurationError: Data, model and evaluator do not fit together.
            FloatingPointError: Training diverged.
        """
        model, progress = self._start()
        self._passed_over += tracker.continue_after(progress.step)
        self._evaluator.fits(model)
        with self._evaluator as evaluator:
            for experience in self._stream.experiences[progress.experiences_done :]:
                if self._stream.independent and experience.index:
                    model = self._begin(experience)
                    evaluator.fits(model)
                if self._plan.untrained and (self._stream.independent or experience.index == 0):
                    untrained = experience.tasks if self._stream.independent else self._stream.tasks
                    progress = self._reported(evaluator, model, -1, untrained, progress, at_step=0)
                progress = self._learn(evaluator, model, experience, progress, tracker)
                met = self._tasks_to_evaluate(experience)
                progress = self._reported(evaluator, model, experience.index, met, progress, at_step=progress.step)
                progress = replace(progress, experiences_done=experience.index + 1)
                self._write_results(progress.experiences_done)
                tracker.flush()
                progress = replace(progress, passed_over=self._passed_over)
                checkpoint.save(self._folder.checkpoints, model, self._method, progress, self._table)
                self._method.committed()
                self._write_summary(model, progress)
        self._write_summary(model, progress)

    def _start(self) -> tuple[Model, Progress]:
        """The model and the progress of the newest checkpoint, or of the beginning."""
        newest = checkpoint.find_newest(self._folder.checkpoints)
        if newest is None:
            progress = Progress(0, step=0, train_seconds=0.0, evaluate_seconds=0.0)
            model = self._begin(self._stream.experiences[0])
        else:
            progress = checkpoint.load_progress(newest.folder)
            self._passed_over = progress.passed_over + newest.passed_over
            model = self._continue(newest.folder, progress)
            print(self._folder.stage(progress.experiences_done, len(self._stream)))
        self._write_results(progress.experiences_done)
        self._write_summary(model, progress)
        return model, progress

    def _begin(self, first: Experience) -> Model:
        """A new model and a method that has met none: what a run of this experience alone begins with."""
        model = self._family.new_model(first, self._train_seed)
        self._passed_over = tuple(dict.fromkeys((*self._passed_over, *self._family.passed_over())))
        for _, remembered in self._attached(model):
            self._method.adopt(remembered)
        return model

    def _continue(self, found: Path, progress: Progress) -> Model:
        """The model of a checkpoint, and the method with what it kept."""
        checkpoint.point_at(found)  # a kill right after the checkpoint left `last` at the one before
        self._table = self._trials_of(found, progress)
        model = self._family.load_model(found / "pretrained_model")
        past = self._stream.experiences[: progress.experiences_done]
        known = past[-1:] if self._stream.independent else past
        data = ((self._as_learnt(experience), self._family.data(experience, model)) for experience in known)
        reused = self._attached(model)
        checkpoint.load_method(found, self._method, chain(reused, data))
        self._method.committed()  # a kill right after the checkpoint left files that it does not name
        return model

    def _attached(self, model: Model) -> list[tuple[Experience, Data]]:
        """Let a method that has met no model meet this one; what another run remembered, if it begins with that."""
        self._method = copy.deepcopy(self._given)  # which stays as it is, for an experience that begins anew
        self._method.attach(model, self._train_seed)
        self._method.open(self._folder.root)
        reused = self._method.reuses
        return [] if reused is None else [(REUSED, self._family.reused_data(reused, model))]

    def _as_learnt(self, experience: Experience) -> Experience:
        """What loop and method are told: alone, every experience is the first."""
        return replace(experience, index=0) if self._stream.independent else experience

    def _trials_of(self, found: Path, progress: Progress) -> TrialTable:
        """The table up to a checkpoint: its own copy, or, of a version that wrote none, the run's table.

        Raises:
            ConfigurationError: Trials of an experience that has been learnt are missing.
        """
        layout = self._evaluator.layout
        path = found / checkpoint.STATE / layout.file
        table = TrialTable.read(path, layout) if path.is_file() else self._folder.trials(layout)
        for experience in self._stream.experiences[: progress.experiences_done]:
            tasks = self._tasks_to_evaluate(experience)
            expected = {(task.id, unit) for task in tasks for unit in self._units(task)}
            if missing := expected - table.reported(experience.index):
                raise ConfigurationError(
                    f"{layout.title} of {short(self._folder.root)} lacks {len(missing)} trials of experience "
                    f"{experience.index}, which its checkpoint implies; restore {layout.file}, "
                    "or start again with output_dir=<a new folder>"
                )
        return table

    def _units(self, task: Task) -> Sequence[int]:
        return self._evaluator.units(task, "report", self._plan.count)

    def _learn(
        self, evaluator: Evaluator, model: Model, experience: Experience, progress: Progress, tracker: Tracker
    ) -> Progress:
        data = self._family.data(experience, model)
        total = self._training.steps * len(experience.tasks)
        points = curve_steps(total, self._plan.curve_points)
        evaluated = progress
        if 0 in points:
            evaluated = self._curve_point(evaluator, model, experience, evaluated, 0)
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
                    evaluated = self._curve_point(evaluator, model, experience, evaluated, report.step)
                    began += time.perf_counter() - paused  # evaluating is not training
        seconds = time.perf_counter() - began
        return replace(evaluated, step=progress.step + total, train_seconds=evaluated.train_seconds + seconds)

    def _curve_point(
        self, evaluator: Evaluator, model: Model, experience: Experience, progress: Progress, done: int
    ) -> Progress:
        """How well is done what is being learnt, on the selection split: a point of the learning curve."""
        step = self._training.steps * self._tasks_before(experience) + done
        request = EvaluationRequest(experience.tasks, experience.index, step, "select", self._plan.curve_count)
        return self._evaluate(evaluator, model, request, progress)

    def _reported(
        self,
        evaluator: Evaluator,
        model: Model,
        experience: int,
        tasks: Sequence[Task],
        progress: Progress,
        at_step: int,
    ) -> Progress:
        request = EvaluationRequest(tuple(tasks), experience, at_step, "report", self._plan.count)
        return self._evaluate(evaluator, model, request, progress)

    def _evaluate(self, evaluator: Evaluator, model: Model, request: EvaluationRequest, progress: Progress) -> Progress:
        """Put the trials of a request into the table; task by task where the method must be told which is served."""
        tasks = tuple(task for task in request.tasks if evaluator.units(task, request.split, request.count))
        if not tasks:
            return progress
        began = time.perf_counter()
        groups = [(task,) for task in tasks] if self._method.task_id_at_test else [tasks]
        when: dict[str, int] = {"experience": request.experience, "step": request.step}
        for group in groups:
            with self._serving(group):
                trials = evaluator.evaluate(model, replace(request, tasks=group))
            for trial in trials:
                self._table.append(trial, **when, split=request.split)
        return replace(progress, evaluate_seconds=progress.evaluate_seconds + time.perf_counter() - began)

    @contextmanager
    def _serving(self, tasks: Sequence[Task]) -> Iterator[None]:
        """Tell a method that must know it which task is asked for."""
        if not self._method.task_id_at_test:
            yield
            return
        try:
            (task,) = tasks
            self._method.select_task(task)
            yield
        finally:
            self._method.select_task(None)

    def _tasks_to_evaluate(self, experience: Experience) -> Sequence[Task]:
        if self._plan.future_tasks:
            return self._stream.tasks
        if self._stream.independent:
            return experience.tasks
        return Stream("met", self._stream.experiences[: experience.index + 1]).tasks

    def _tasks_before(self, experience: Experience) -> int:
        return sum(len(earlier.tasks) for earlier in self._stream.experiences[: experience.index])

    def _write_results(self, experiences_done: int) -> None:
        self._folder.write_results(self._table, self._stream, experiences_done, self._plan.curve_count)

    def _write_summary(self, model: Model, progress: Progress) -> None:
        finished = progress.experiences_done == len(self._stream)
        spent = progress.train_seconds, progress.evaluate_seconds
        seconds = dict(zip(("train", "evaluate", "total"), (*spent, sum(spent)), strict=True))
        evaluated = sorted(task.id for task in self._stream.tasks if self._units(task))
        self._folder.write_summary(
            {
                "format": RUN_FORMAT,
                **asdict(self._identity),
                "family": self._family.name,
                **self._family.facts(),
                "stream": self._stream.name,
                "status": "finished" if finished else "running",
                "tasks": [{"id": task.id, "instruction": task.instruction} for task in self._stream.tasks],
                "experiences": [
                    {"name": experience.name, "tasks": [task.id for task in experience.tasks]}
                    for experience in self._stream
                ],
                "seeds": {"train_seed": self._train_seed, "eval_seed": 0},
                "rollouts": {"tasks": evaluated, "skipped": self._evaluator.why_nothing()},
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

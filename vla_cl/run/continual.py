"""A run from its first experience to its last: learn, evaluate, write, remember; then the next.

The same lines for every family of models: what is particular to one comes from its `Family`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from vla_cl.evaluation.plan import EvaluationPlan, curve_steps
from vla_cl.interfaces import Data, Family, Method, Model
from vla_cl.memory.replay_memory import REUSED
from vla_cl.run import checkpoint, underway
from vla_cl.run.checkpoint import Progress
from vla_cl.run.folder import RunFolder
from vla_cl.run.scoring import Scoring
from vla_cl.run.summary import Identity, described, measured
from vla_cl.run.tracking import Tracker
from vla_cl.run.underway import MODEL, Underway
from vla_cl.scores import EvaluationRequest
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.training.step_report import StepReport
from vla_cl.training.stopping import StopRequest, between_steps
from vla_cl.trust.text import short, told_as
from vla_cl.types import Experience, Stream, Task

LOG_EVERY = 10


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
        self._underway: Underway | None = None
        self._scoring = Scoring(family, stream, plan, folder)

    def go(self, tracker: Tracker) -> None:
        """Learn what has not been learnt yet.

        Raises:
            ConfigurationError: Data, model and evaluator do not fit together.
            FloatingPointError: Training diverged.
            Stopped: A signal asked for it; where the run is has been noted.
        """
        model, progress = self._start()
        reached = self._underway.done if self._underway is not None else 0
        self._passed_over += tracker.continue_after(progress.step + reached)
        self._scoring.fits(model)
        with self._scoring.ready():
            for experience in self._stream.experiences[progress.experiences_done :]:
                place = self._underway if self._underway and self._underway.experience == experience.index else None
                if self._stream.independent and experience.index and place is None:
                    model = self._begin(experience)
                    self._scoring.fits(model)
                if place is None:
                    progress = self._before_learning(model, experience, progress)
                if place is not None and place.learnt:
                    progress = replace(progress, step=progress.step + place.done)
                else:
                    progress = self._learn(model, experience, progress, tracker, place)
                progress = self._after_learning(model, experience, progress, tracker)
        self._write_summary(model, progress)

    def _before_learning(self, model: Model, experience: Experience, progress: Progress) -> Progress:
        """Scores of the untrained model, if they are wanted."""
        if not self._plan.untrained or (experience.index and not self._stream.independent):
            return progress
        untrained = experience.tasks if self._stream.independent else self._stream.tasks
        return self._reported(model, -1, untrained, progress, at_step=0)

    def _after_learning(self, model: Model, experience: Experience, progress: Progress, tracker: Tracker) -> Progress:
        """Score what has been met so far, and write it all down."""
        met = self._tasks_to_evaluate(experience)
        progress = self._reported(model, experience.index, met, progress, at_step=progress.step)
        progress = replace(progress, experiences_done=experience.index + 1)
        self._scoring.write(progress.experiences_done)
        tracker.flush()
        progress = replace(progress, passed_over=self._passed_over)
        checkpoint.save(self._folder.checkpoints, model, self._method, progress, self._scoring.tables)
        underway.remove(self._folder.root)
        self._scoring.forget_journals()
        self._method.committed()
        self._write_summary(model, progress)
        return progress

    def _start(self) -> tuple[Model, Progress]:
        """The model and the progress of the newest checkpoint, or of the beginning, and the place behind it."""
        newest = checkpoint.find_newest(self._folder.checkpoints)
        progress = Progress(0, 0, 0.0, 0.0) if newest is None else checkpoint.load_progress(newest.folder)
        done = progress.experiences_done
        self._underway, damaged = underway.find(self._folder.root, done)
        if damaged is not None:
            self._passed_over += (damaged,)
            print(damaged)
        elif self._underway is None:
            underway.remove(self._folder.root)  # a kill right after the checkpoint left the place before it
        if newest is None:
            model = self._place(None, progress) or self._begin(self._stream.experiences[0])
        else:
            self._passed_over += progress.passed_over + newest.passed_over
            checkpoint.point_at(newest.folder)  # a kill right after the checkpoint left `last` at the one before
            learnt = self._stream.experiences[:done]
            self._scoring.read_checkpoint(newest.folder, [(one, self._tasks_to_evaluate(one)) for one in learnt])
            model = self._place(newest.folder, progress) or self._continue(newest.folder / MODEL, newest.folder, done)
        if newest is not None or self._underway is not None:
            print(self._folder.stage(done, len(self._stream), "" if self._underway is None else self._underway.words))
        self._scoring.write(done)
        self._write_summary(model, progress)
        if self._underway is not None:
            place = self._underway
            progress = replace(progress, train_seconds=place.train_seconds, evaluate_seconds=place.evaluate_seconds)
        return model, progress

    def _place(self, border: Path | None, progress: Progress) -> Model | None:
        """The model at a place between two checkpoints; None if there is none, or the model is that of the border."""
        place = self._underway
        if place is None:
            return None
        self._scoring.read(place.folder)
        if place.learnt:
            return self._continue(place.folder / MODEL, place.folder, progress.experiences_done + 1)
        if self._stream.independent and border is not None:  # its model begins with this experience
            return self._begin(self._stream.experiences[place.experience])
        return None

    def _begin(self, first: Experience) -> Model:
        """A new model and a method that has met none: what a run of this experience alone begins with."""
        model = self._family.new_model(first, self._train_seed)
        self._passed_over = tuple(dict.fromkeys((*self._passed_over, *self._family.passed_over())))
        for _, remembered in self._attached(model):
            self._method.adopt(remembered)
        return model

    def _continue(self, saved: Path, found: Path, learnt: int) -> Model:
        """A saved model, and the method with what it kept after so many experiences."""
        model = self._family.load_model(saved)
        past = self._stream.experiences[:learnt]
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

    def _learn(
        self,
        model: Model,
        experience: Experience,
        progress: Progress,
        tracker: Tracker,
        place: Underway | None,
    ) -> Progress:
        """Learn one experience from its beginning, or from a place within it; its last step is noted."""
        data = self._family.data(experience, model)
        first_step = 0 if self._stream.independent else progress.step
        told = self._as_learnt(experience)
        learning = Learning(model, self._method, told, data, self._training, self._train_seed, first_step)
        if place is not None:
            self._continue_within(learning, place)
        return self._steps(model, experience, progress, tracker, learning)

    def _continue_within(self, learning: Learning, place: Underway) -> None:
        """Put weights, optimizer and the rest in.

        Raises:
            ConfigurationError: They do not fit.
        """
        remedy = f"remove {short(place.folder)}, and the run continues from the checkpoint before"
        with told_as(
            f"the state in {short(place.folder)} does not fit the run", remedy, ValueError, KeyError, RuntimeError
        ):
            learning.continue_at(place.done, place.weights, place.state)

    def _steps(
        self,
        model: Model,
        experience: Experience,
        progress: Progress,
        tracker: Tracker,
        learning: Learning,
    ) -> Progress:
        """The steps that are left, with their log, the points of the learning curve, and notes of the place.

        A signal lets a step end and its place be noted; between steps, while scores are taken, it ends the run at once.
        """
        every, root, before = self._training.save_every, self._folder.root, progress.step
        label = f"learning {experience.name} ({experience.index + 1}/{len(self._stream)})"
        progress = self._curve_point(model, experience, progress, learning)
        steps, speed, asked = iter(learning), _Speed(), StopRequest()
        with tqdm(total=learning.total, initial=learning.done, desc=label, unit="step") as bar:
            while True:
                with between_steps(asked):
                    began = time.perf_counter()
                    report = next(steps, None)  # behind the last step, the method ends the task
                    progress = replace(progress, train_seconds=progress.train_seconds + time.perf_counter() - began)
                    now = progress, experience.index, self._scoring.tables
                    if report is None:
                        underway.save_learnt(root, model, self._method, learning.done, *now)
                        asked.raise_if_asked()
                        return replace(progress, step=before + learning.total)
                    bar.update()
                    rate = speed.of(report.samples, time.perf_counter() - began)
                    if report.step % LOG_EVERY == 0 or report.step == learning.total:
                        bar.set_postfix_str(f"loss {report.loss:.3f}", refresh=False)
                        self._log(tracker, experience, before, report, rate)
                    if asked.asked or (every and report.step % every == 0 and report.step < learning.total):
                        tracker.flush()
                        underway.save_within(root, model, learning, *now)
                        asked.raise_if_asked()
                progress = self._curve_point(model, experience, progress, learning)

    @staticmethod
    def _log(tracker: Tracker, experience: Experience, before: int, report: StepReport, speed: float) -> None:
        figures = {
            name: getattr(report, name) for name in ("phase", "loss", "learning_rate", "gradient_norm", "samples")
        }
        step = before + report.step
        tracker.log(step, experience=experience.index, samples_per_second=round(speed, 1), **figures)

    def _curve_point(self, model: Model, experience: Experience, progress: Progress, learning: Learning) -> Progress:
        """How well is done what is being learnt, on the selection split, if a point of the learning curve is due here.

        What a run has that continues is not scored again.
        """
        if learning.done not in curve_steps(learning.total, self._plan.curve_points):
            return progress
        step = self._training.steps * self._tasks_before(experience) + learning.done
        if self._scoring.is_known(experience.index, step):
            return progress
        learning.require_finite()
        request = EvaluationRequest(experience.tasks, experience.index, step, "select", self._plan.curve_count)
        return self._evaluate(model, request, progress)

    def _reported(
        self,
        model: Model,
        experience: int,
        tasks: Sequence[Task],
        progress: Progress,
        at_step: int,
    ) -> Progress:
        request = EvaluationRequest(tuple(tasks), experience, at_step, "report", self._plan.count)
        return self._evaluate(model, request, progress)

    def _evaluate(self, model: Model, request: EvaluationRequest, progress: Progress) -> Progress:
        seconds = self._scoring.evaluate(self._method, model, request)
        return replace(progress, evaluate_seconds=progress.evaluate_seconds + seconds)

    def _tasks_to_evaluate(self, experience: Experience) -> Sequence[Task]:
        if self._plan.future_tasks:
            return self._stream.tasks
        if self._stream.independent:
            return experience.tasks
        return Stream("met", self._stream.experiences[: experience.index + 1]).tasks

    def _tasks_before(self, experience: Experience) -> int:
        return sum(len(earlier.tasks) for earlier in self._stream.experiences[: experience.index])

    def _write_summary(self, model: Model, progress: Progress) -> None:
        own = {"seeds": {"train_seed": self._train_seed, "eval_seed": 0}, "passed_over": list(self._passed_over)}
        self._folder.write_summary(
            asdict(self._identity)
            | {"family": self._family.name, **self._family.facts()}
            | described(self._stream, self._scoring.evaluated(), self._scoring.why_nothing())
            | own
            | measured(model, self._method, progress, len(self._stream))
        )


class _Speed:
    """Samples learnt per second, pauses left out."""

    def __init__(self) -> None:
        self._samples, self._seconds = 0, 0.0

    def of(self, samples: int, seconds: float) -> float:
        """After another step."""
        self._samples, self._seconds = self._samples + samples, self._seconds + seconds
        return self._samples / self._seconds

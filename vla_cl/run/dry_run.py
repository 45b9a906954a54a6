"""``vla-cl train --dry-run``: everything is checked and its costs are estimated; nothing is started or left behind.

Steps, evaluations and trials follow from the settings. A checkpoint's weights are written to a temporary folder to know
their size; of robots it is counted. Seconds are measured on a few steps and trials of a throw-away model, where a
family makes its own data. For robots none are measured, since their images would be decoded into the cache.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vla_cl.config.compose import Settings
from vla_cl.evaluation.plan import curve_steps
from vla_cl.interfaces import Method, Model
from vla_cl.rollout.evaluation import EvaluationSettings
from vla_cl.run.check import check, output_folder, use_threads
from vla_cl.run.family_check import CheckedFamily, check_family, is_robot
from vla_cl.scores import EvaluationRequest
from vla_cl.types import Stream, Task

_MEASURED_STEPS = 5
_ADAMW = 4  # weights, gradients, two moments
_MIB = 2**20

Count = Callable[[Task, str, int], int]
"""How many trials of a task an evaluation of a split has that asks for so many."""


@dataclass(frozen=True)
class Costs:
    """What a run would take.

    Attributes:
        folder: Where it would be written.
        steps: Optimizer steps.
        evaluations: Evaluations of the model, those of learning curves included.
        trials: Trials of all evaluations together: rollouts, answers.
        checkpoints: How many are written, one for each experience.
        weight_bytes: Of the weights and settings of one checkpoint.
        learning_bytes: Weights, gradients and AdamW's moments.
        step_seconds: Of a step of the first experience; None: not measured.
        trial_seconds: Of a trial of the untrained model; None: not measured.
        notes: What was measured and what was not.
    """

    folder: Path
    steps: int
    evaluations: int
    trials: int
    checkpoints: int
    weight_bytes: int | None
    learning_bytes: int | None
    step_seconds: float | None
    trial_seconds: float | None
    notes: tuple[str, ...]

    @property
    def content(self) -> dict[str, object]:
        """Plain data."""
        return {
            **{key: value for key, value in vars(self).items() if key not in ("folder", "notes")},
            "folder": str(self.folder),
            "disk_bytes": None if self.weight_bytes is None else self.weight_bytes * self.checkpoints,
            "seconds": self._seconds,
            "notes": list(self.notes),
        }

    @property
    def _seconds(self) -> float | None:
        if self.step_seconds is None or self.trial_seconds is None:
            return None
        return self.steps * self.step_seconds + self.trials * self.trial_seconds

    @property
    def text(self) -> str:
        """A few lines for people."""
        lines = [
            f"nothing speaks against it; it would be written to {self.folder}",
            f"{self.steps:,} optimizer steps, {self.evaluations:,} evaluations with {self.trials:,} trials together",
        ]
        if self.weight_bytes is not None:
            each, count = self.weight_bytes / _MIB, self.checkpoints
            lines.append(f"disk: {count} checkpoints with weights of {each:.1f} MiB each, {each * count:.1f} MiB")
        if self.learning_bytes is not None:
            lines.append(f"memory: {self.learning_bytes / _MIB:.1f} MiB for weights, gradients and AdamW's moments")
        if self._seconds is not None:
            each_of_both = f"{self.step_seconds:.3g} s a step, {self.trial_seconds:.3g} s a trial"
            lines.append(f"time: about {self._seconds:.0f} s ({each_of_both})")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def dry_run(settings: Settings) -> Costs:
    """Check a run and estimate its costs.

    Raises:
        ConfigurationError: The first thing that is wrong, as of `vla_cl.run.root.train`.
    """
    return _of_robot(settings) if is_robot(settings) else _of_family(settings)


def _of_robot(settings: Settings) -> Costs:
    checked = check(settings)
    suite = checked.found.suite
    known = {task.id for task in checked.found.evaluable}

    def count(task: Task, split: str, wanted: int) -> int:
        return len(suite.initial_states(split, wanted)) if task.id in known else 0  # type: ignore[arg-type]

    network = checked.policy.network
    size = None if network is None else sum(item.numel() * item.element_size() for item in network.parameters())
    notes = ["no second is measured for robots: their images would be decoded into the cache"]
    if size is None:
        notes.append(f"the size of policy {checked.policy.kind!r} is only known once it is built")
    if checked.found.recorded is None:
        wanted = int(settings["demonstrations"]["episodes"]) * len(checked.found.stream.tasks)
        notes.append(f"{wanted} demonstrations are recorded first, as far as the cache lacks them")
    if settings["data"].get("held_out"):
        notes.append("scores on held-out episodes are not counted among the trials")
    return _costs(settings, checked.found.stream, checked.evaluation, count, size, (None, None), (*notes, _KEPT))


_KEPT = "not counted: what the method remembers, the optimizer's state in underway/, films, tables and the report"


def _of_family(settings: Settings) -> Costs:
    checked = check_family(settings)
    evaluator = checked.family.evaluator()

    def count(task: Task, split: str, wanted: int) -> int:
        return len(evaluator.units(task, split, wanted))  # type: ignore[arg-type]

    use_threads(settings["threads"] or checked.family.threads)
    seed = settings["train_seed"]
    model = checked.family.new_model(checked.stream.experiences[0], seed)
    with tempfile.TemporaryDirectory(prefix="vla-cl-dry-run-") as folder:
        model.save(Path(folder) / "model")
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    seconds = _trial_seconds(checked, model), _step_seconds(checked, model, copy.deepcopy(checked.method), seed)
    notes = (
        f"measured: {_MEASURED_STEPS} steps of the first experience and an evaluation of one task; steps that "
        "replay or look at what the method keeps take longer",
        _KEPT,
    )
    return _costs(settings, checked.stream, checked.evaluation, count, size, seconds, notes, model)


def _step_seconds(checked: CheckedFamily, model: Model, method: Method, seed: int) -> float:
    """Of a step, the first one left out."""
    from vla_cl.training.learning import Learning

    first = checked.stream.experiences[0]
    method.attach(model, seed)
    settings = replace(
        checked.training, steps=_MEASURED_STEPS + 2
    )  # the last one is not taken: the method ends no task
    steps = iter(Learning(model, method, first, checked.family.data(first, model), settings, seed))
    next(steps)
    began = time.perf_counter()
    for _ in range(_MEASURED_STEPS):
        next(steps)
    return (time.perf_counter() - began) / _MEASURED_STEPS


def _trial_seconds(checked: CheckedFamily, model: Model) -> float:
    """Of a trial of the first experience's first task."""
    tasks = checked.stream.experiences[0].tasks[:1]
    evaluator = checked.family.evaluator()
    with evaluator:
        began = time.perf_counter()
        trials = evaluator.evaluate(model, EvaluationRequest(tasks, 0, 0, "report", checked.evaluation.episodes))
        return (time.perf_counter() - began) / max(len(trials), 1)


def _costs(
    settings: Settings,
    stream: Stream,
    evaluation: EvaluationSettings,
    count: Count,
    size: int | None,
    seconds: tuple[float | None, float | None],
    notes: tuple[str, ...],
    model: Model | None = None,
) -> Costs:
    steps = [int(settings["training"]["steps"]) * len(experience.tasks) for experience in stream]
    asked = [trials for trials in _evaluations(stream, evaluation, steps, count) if trials]
    weights = size
    if model is not None:
        weights = sum(item.numel() * item.element_size() for item in model.module.parameters())
    return Costs(
        folder=output_folder(settings),
        steps=sum(steps),
        evaluations=len(asked),
        trials=sum(asked),
        checkpoints=len(stream),
        weight_bytes=size,
        learning_bytes=None if weights is None else _ADAMW * weights,
        step_seconds=seconds[1],
        trial_seconds=seconds[0],
        notes=notes,
    )


def _evaluations(stream: Stream, chosen: EvaluationSettings, steps: Sequence[int], count: Count) -> list[int]:
    """Trials of each evaluation, in the order in which `vla_cl.run.continual` asks for them."""

    def of(tasks: Sequence[Task], split: str = "report", wanted: int = chosen.episodes) -> int:
        return sum(count(task, split, wanted) for task in tasks)

    found = []
    for experience, total in zip(stream, steps, strict=True):
        if chosen.untrained and (stream.independent or not experience.index):
            found.append(of(experience.tasks if stream.independent else stream.tasks))
        points = len(curve_steps(total, chosen.curve_points))
        found += [of(experience.tasks, "select", chosen.curve_episodes)] * points
        met: Sequence[Task] = Stream("met", stream.experiences[: experience.index + 1]).tasks
        if stream.independent:
            met = experience.tasks
        found.append(of(stream.tasks if chosen.future_tasks else met))
    return found

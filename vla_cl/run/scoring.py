"""Scores of a run: its evaluators, the table that each fills, and the journal of the evaluation under way."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from vla_cl.evaluation.journal import JOURNALS, TrialJournal
from vla_cl.evaluation.plan import EvaluationPlan
from vla_cl.evaluation.table import TrialTable
from vla_cl.files import remove_folder
from vla_cl.interfaces import Evaluator, Family, Method, Model
from vla_cl.run import checkpoint
from vla_cl.run.folder import RunFolder
from vla_cl.scores import EvaluationRequest, Trial
from vla_cl.storage.manifest import run_key
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, Experience, Stream, Task


class Scoring:
    """Scores a model on tasks and keeps what was found.

    Args:
        family: Whose evaluators score.
        stream: What is learnt.
        plan: What is evaluated, and when.
        folder: Of the run.

    Raises:
        ConfigurationError: Two evaluators would write one file.
    """

    def __init__(self, family: Family, stream: Stream, plan: EvaluationPlan, folder: RunFolder) -> None:
        self.evaluators: tuple[Evaluator, ...] = (family.evaluator(), *family.further_evaluators())
        self.tables = tuple(TrialTable(evaluator.layout) for evaluator in self.evaluators)
        self._stream = stream
        self._plan = plan
        self._folder = folder
        self._identity = family.identity()
        files = sorted(table.layout.file for table in self.tables)
        names = sorted(measure.name for evaluator in self.evaluators for measure in evaluator.measures)
        if twice := next((one for one, other in [*pairwise(files), *pairwise(names)] if one == other), None):
            raise ConfigurationError(
                f"two evaluators of the family {family.name!r} write {twice!r}; give each its own file and measures"
            )

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, every evaluator may be asked."""
        with ExitStack() as held:
            for evaluator in self.evaluators:
                held.enter_context(evaluator)
            yield

    def fits(self, model: Model) -> None:
        """Refuse a model that an evaluator cannot score.

        Raises:
            ConfigurationError: It cannot.
        """
        for evaluator in self.evaluators:
            evaluator.fits(model)

    def why_nothing(self) -> str | None:
        """Why no task is evaluated by the first evaluator; None if some are."""
        return self.evaluators[0].why_nothing()

    def evaluated(self) -> list[str]:
        """Ids of the tasks that the first evaluator reports."""
        return [task.id for task in self._stream.tasks if self._reported_units(self.evaluators[0], task)]

    def is_known(self, experience: int, step: int) -> bool:
        """Whether a point of the learning curve has been measured."""
        return any(table.cells(experience, "select", step) for table in self.tables)

    def evaluate(self, method: Method, model: Model, request: EvaluationRequest) -> float:
        """Put the trials of a request into the tables; the seconds it took.

        Every trial is in the journal as soon as it is made. Those that a run of before has made of the same weights are
        taken from there.

        Raises:
            ConfigurationError: An evaluator gives other trials than it said.
        """
        began = time.perf_counter()
        name = f"{request.experience:03d}-{request.step}-{request.split}.jsonl"
        with TrialJournal(self._folder.root / JOURNALS / name, self._which(model, request)) as journal:
            for place, (evaluator, table) in enumerate(zip(self.evaluators, self.tables, strict=True)):
                for group in _groups(method, evaluator, request):
                    trials = self._trials(method, model, evaluator, replace(request, tasks=group), (journal, place))
                    for trial in trials:
                        table.append(trial, experience=request.experience, step=request.step, split=request.split)
        return time.perf_counter() - began

    def read(self, folder: Path) -> None:
        """Take over the tables of a place between two checkpoints."""
        self.tables = tuple(
            TrialTable.read(folder / checkpoint.STATE / table.layout.file, table.layout) for table in self.tables
        )

    def read_checkpoint(self, found: Path, learnt: Sequence[tuple[Experience, Sequence[Task]]]) -> None:
        """Take over the tables up to a checkpoint: its own copies, or, of a version that wrote none, the run's.

        Args:
            found: The checkpoint.
            learnt: Each experience that has been learnt, and the tasks that were evaluated after it.

        Raises:
            ConfigurationError: Trials of an experience that has been learnt are missing.
        """
        tables = []
        for evaluator in self.evaluators:
            layout = evaluator.layout
            path = found / checkpoint.STATE / layout.file
            table = TrialTable.read(path, layout) if path.is_file() else self._folder.trials(layout)
            for experience, tasks in learnt:
                expected = {(task.id, unit) for task in tasks for unit in self._reported_units(evaluator, task)}
                if missing := expected - table.reported(experience.index):
                    raise ConfigurationError(
                        f"{layout.title} of {short(self._folder.root)} lacks {len(missing)} trials of experience "
                        f"{experience.index}, which its checkpoint implies; restore {layout.file}, "
                        "or start again with output_dir=<a new folder>"
                    )
            tables.append(table)
        self.tables = tuple(tables)

    def write(self, experiences_done: int) -> None:
        """Write the tables and the matrices that follow from them."""
        for place, table in enumerate(self.tables):
            self._folder.write_results(table, self._stream, experiences_done, shown=place == 0)

    def forget_journals(self) -> None:
        """A checkpoint holds all trials now."""
        remove_folder(self._folder.root / JOURNALS)

    def _reported_units(self, evaluator: Evaluator, task: Task) -> Sequence[int]:
        return evaluator.units(task, "report", self._plan.count)

    def _trials(
        self,
        method: Method,
        model: Model,
        evaluator: Evaluator,
        request: EvaluationRequest,
        journal: tuple[TrialJournal, int],
    ) -> list[Trial]:
        """The trials of a request, those known and those made now, in the order of tasks and units."""
        kept, place = journal
        wanted = [
            (task.id, unit) for task in request.tasks for unit in evaluator.units(task, request.split, request.count)
        ]
        known = kept.known(place)
        asked = replace(
            request,
            known=frozenset(known.keys() & set(wanted)),
            write_down=partial(kept.append, place),
        )
        with _serving(method, request.tasks):
            made = evaluator.evaluate(model, asked) if asked.known != set(wanted) else []
        found = {(trial.task, trial.unit): trial for trial in made}
        if len(found) != len(made) or found.keys() | asked.known != set(wanted):
            raise ConfigurationError(
                f"the evaluator {type(evaluator).__name__} gave {len(made)} trials, and they are not those that "
                f"its `units` names for {', '.join(task.id for task in request.tasks)[:80]}; the two must agree"
            )
        for key, trial in found.items():
            if key not in known:
                kept.append(place, trial)
        return [known[key] if key in asked.known else found[key] for key in wanted]

    def _which(self, model: Model, request: EvaluationRequest) -> Mapping[str, Any]:
        """All that decides the trials of a request, within a run."""
        return {
            "run": run_key(self._folder.root),
            "family": self._identity,
            "weights": _hash_of(model),
            "experience": request.experience,
            "step": request.step,
            "split": request.split,
            "count": request.count,
        }


def _groups(method: Method, evaluator: Evaluator, request: EvaluationRequest) -> list[tuple[Task, ...]]:
    """The tasks that the evaluator can score, one by one where the method must be told which is served."""
    tasks = tuple(task for task in request.tasks if evaluator.units(task, request.split, request.count))
    if method.task_id_at_test:
        return [(task,) for task in tasks]
    return [tasks] if tasks else []


@contextmanager
def _serving(method: Method, tasks: Sequence[Task]) -> Iterator[None]:
    """Tell a method that must know it which task is asked for."""
    if not method.task_id_at_test:
        yield
        return
    try:
        (task,) = tasks
        method.select_task(task)
        yield
    finally:
        method.select_task(None)


def _hash_of(model: Model) -> str:
    """Of everything that steps change, so that trials of other weights are never taken for those of these."""
    digest = hashlib.sha256()
    for name, tensor in {**model.module.state_dict(), **model.uncounted_state()}.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

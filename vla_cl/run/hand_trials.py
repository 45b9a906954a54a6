"""Trials that a person scores: blind, shuffled, resumable (``vla-cl trial``).

What is tried is the policy of several checkpoints of a run on its tasks. Nobody sees which checkpoint is tried: its
files are copied into one folder whose name is always the same. The plan says which trials there are and in which order;
answers are written down one by one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.evaluation.journal import TrialJournal, require_whole
from vla_cl.evaluation.table import TrialTable
from vla_cl.files import replacing_folder, write_json
from vla_cl.interfaces.layout import TrialLayout
from vla_cl.metrics.matrix import matrix_file
from vla_cl.random_numbers import Purpose, generator
from vla_cl.run.checkpoint import FOLDER, folder_name, verify
from vla_cl.run.folder import CONFIG, read_settings, require_robot, score_matrix
from vla_cl.scores import Measure, Trial
from vla_cl.storage.locks import only_writer
from vla_cl.storage.manifest import SEAL, require_of_run, require_readable_run, require_seal, run_key, seal
from vla_cl.trust.reading import read_json_object, require_entries
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, Experience, Stream, Task

MEASURE = Measure("trial_success", "higher", "proportion", 0.0, 1.0, "success in trials scored by a person")
"""What a person's answers are called in the matrix."""

TRIALS = "trials"
"""The folder within a run's."""

POLICY = "policy"
"""Within that, the policy that is to be tried now."""

_TIME = 946684800.0
"""Of every file that is tried: the first second of 2000."""

_MOST = 100_000
"""Trials of one task and checkpoint."""

_PLAN, _ANSWERS, _LOCK = "plan.json", "answers.jsonl", ".lock"
_REMEDY = "restore it, or move the folder `trials` away and begin anew"


class HandLayout(TrialLayout):
    """The table of a person's trials; its unit says which start of the scene."""

    title = "the table of trials scored by a person"

    def __init__(self) -> None:
        super().__init__((MEASURE,), {"note": "string"}, "hand_trials.parquet")


@dataclass(frozen=True)
class Planned:
    """One trial.

    Attributes:
        experience: Of the checkpoint that is tried; nobody is shown it before the end.
        task: Its id.
        unit: Which start of the scene, from 1; the same starts for every checkpoint.
    """

    experience: int
    task: str
    unit: int


class HandTrials:
    """The trials of one run; open it to add answers.

    Args:
        run: Its folder.

    Raises:
        ConfigurationError: It is no run of a robot, its method must be told the task, or a file is damaged.
    """

    def __init__(self, run: Path) -> None:
        if not (run / CONFIG).is_file():
            raise ConfigurationError(
                f"{short(run)} is no run (it has no {CONFIG}); give a folder that vla-cl train wrote"
            )
        require_readable_run(run)
        settings = read_settings(run / CONFIG)
        require_robot(settings, run, "vla-cl trial")
        self.root, self.folder = run, run / TRIALS
        summary = read_json_object(run / "run.json", "the run's summary", "restore it or run again")
        if summary.get("told_the_task"):
            raise ConfigurationError(
                f"method {harmless(str(summary.get('method')), 40)!r} must be told which task it is, so its policy "
                "cannot be tried as it lies there; use vla-cl evaluate"
            )
        self.stream = _stream(summary, run)
        self._alone = summary.get("arrangement") == "independent"
        self.planned: tuple[Planned, ...] = ()
        self._journal: TrialJournal | None = None

    @contextmanager
    def open(self, count: int | None, tasks: Sequence[str] | None, checkpoints: Sequence[int] | None) -> Iterator[None]:
        """Go on with the trials that were planned, or plan them; nobody else may meanwhile.

        Args:
            count: Trials of each task and checkpoint; None: 10, or as planned.
            tasks: Ids or names; None: all, or as planned.
            checkpoints: Their numbers; None: of each task the one behind it and the last, or as planned.

        Raises:
            ConfigurationError: Something else was planned, a name is unknown, or a file is damaged.
        """
        with only_writer(self.folder / _LOCK, f"the trials of {short(self.root)}"):
            path = self.folder / _PLAN
            if path.is_file():
                plan = self._read_plan(path, count, tasks, checkpoints)
            else:
                plan = self._new_plan(count or 10, tasks, checkpoints)
                write_json(path, plan)
            self.planned = tuple(Planned(*item) for item in plan["trials"])
            require_whole(self.folder / _ANSWERS, plan, _REMEDY)
            with TrialJournal(self.folder / _ANSWERS, plan) as journal:
                self._journal = journal
                yield

    def answer(self, planned: Planned) -> Trial | None:
        """What was answered; None while it is open."""
        assert self._journal is not None, "open it first"
        return self._journal.known(planned.experience).get((planned.task, planned.unit))

    def write_down(self, planned: Planned, success: bool, note: str, seconds: float) -> None:
        """Keep an answer; a later one of the same trial replaces it."""
        assert self._journal is not None, "open it first"
        values = {MEASURE.name: float(success)}
        trial = Trial(planned.task, planned.unit, "ok", values, {"note": harmless(note, 300) or None}, seconds)
        self._journal.append(planned.experience, trial)

    def lay_out(self, planned: Planned) -> Path:
        """Put the policy of a trial where the person finds it; the folder."""
        source = self.root / FOLDER / folder_name(planned.experience + 1) / "pretrained_model"
        target = self.folder / POLICY
        with replacing_folder(target) as folder:
            for file in sorted(source.iterdir()):
                _copy(file, folder / file.name)
        return target

    def words(self, planned: Planned) -> str:
        """The instruction of a trial's task."""
        return next(task.instruction for task in self.stream.tasks if task.id == planned.task)

    def write_results(self) -> Path:
        """Write the table of answers and the matrix that follows from it; its path.

        Raises:
            ConfigurationError: Nothing was answered.
        """
        table = TrialTable(HandLayout())
        for planned in self.planned:
            if (trial := self.answer(planned)) is not None:
                table.append(trial, experience=planned.experience, step=0, split="report")
        if not len(table):
            raise ConfigurationError("no trial was answered, so there is nothing to write; give vla-cl trial RUN again")
        table.write(self.root / table.layout.file)
        path = self.root / matrix_file(MEASURE, shown=False)
        rows = 1 + max(planned.experience for planned in self.planned)
        score_matrix(table, self.stream, rows, MEASURE).write(path)
        return path

    def _new_plan(self, count: int, tasks: Sequence[str] | None, checkpoints: Sequence[int] | None) -> dict[str, Any]:
        there = self._checkpoints()
        chosen = self._tasks(tasks) if tasks else [task.id for task in self.stream.tasks]
        checkpoints = sorted(set(checkpoints)) if checkpoints else None
        if checkpoints and (unknown := next((number for number in checkpoints if number not in there), None)):
            raise ConfigurationError(
                f"there is no checkpoint {unknown} in {short(self.root)}; it has {', '.join(map(str, there))}"
            )
        cells = [
            (experience.index, task)
            for experience in self.stream
            for task in chosen
            if self._is_tried(experience, task, there, checkpoints)
        ]
        if not cells:
            raise ConfigurationError(f"no checkpoint of {short(self.root)} has learnt the tasks asked for")
        listed = [[experience, task, unit] for experience, task in cells for unit in range(1, count + 1)]
        key = int(str(run_key(self.root) or "0"), 16) % 2**31  # another order in every run
        order = generator(key, Purpose.HAND_TRIALS).permutation(len(listed))
        asked = {"count": count, "tasks": chosen, "checkpoints": checkpoints}
        return seal({"format": 1, "run": run_key(self.root), **asked, "trials": [listed[place] for place in order]})

    def _is_tried(self, experience: Experience, task: str, there: Sequence[int], chosen: Sequence[int] | None) -> bool:
        number = experience.index + 1
        behind = [item.index + 1 for item in self.stream if any(one.id == task for one in item.tasks)]
        if not behind or number not in there or number < behind[0]:
            return False
        if self._alone:  # every checkpoint has learnt the task of its own experience, and no other
            return number in behind and (not chosen or number in chosen)
        return number in chosen if chosen else number in behind or number == there[-1]

    def _read_plan(
        self, path: Path, count: int | None, tasks: Sequence[str] | None, checkpoints: Sequence[int] | None
    ) -> dict[str, Any]:
        plan = read_json_object(path, "the plan of the trials", _REMEDY)
        require_seal(plan, short(path), _REMEDY)
        require_of_run(plan, self.root, short(path), _REMEDY)
        require_entries(plan, {"format": int, "count": int, "tasks": list, "trials": list}, short(path), _REMEDY)
        if SEAL not in plan or plan["format"] != 1 or not all(_is_planned(item) for item in plan["trials"]):
            raise ConfigurationError(f"{short(path)} is damaged or of another version of vla-cl; {_REMEDY}")
        self._require_possible([Planned(*item) for item in plan["trials"]], plan["count"], path)
        given = {
            "count": count,
            "tasks": self._tasks(tasks) if tasks else None,
            "checkpoints": sorted(set(checkpoints)) if checkpoints else None,
        }
        other = next((name for name, value in given.items() if value is not None and value != plan.get(name)), None)
        if other is not None:
            raise ConfigurationError(
                f"trials of {short(self.root)} were planned with another --{other}; leave it out to go on with them, "
                f"or move {short(self.folder)} away to plan anew"
            )
        return plan

    def _require_possible(self, planned: Sequence[Planned], count: int, path: Path) -> None:
        """Every trial must be one that could have been planned, of a checkpoint that is still whole."""
        there = self._checkpoints()
        for item in planned:
            possible = item.experience + 1 in there and 1 <= item.unit <= count <= _MOST
            if not possible or not self._is_tried(
                self.stream.experiences[item.experience], item.task, there, [item.experience + 1]
            ):
                raise ConfigurationError(
                    f"{short(path)} names a trial that cannot be made: checkpoint {item.experience + 1}, task "
                    f"{harmless(item.task, 40)!r}, start {item.unit}; restore the checkpoint, or {_REMEDY}"[:290]
                )

    def _tasks(self, names: Sequence[str]) -> list[str]:
        """Ids of the tasks named, each once, in the order of the stream."""
        wanted = {self._task(name) for name in names}
        return [task.id for task in self.stream.tasks if task.id in wanted]

    def _checkpoints(self) -> list[int]:
        """Numbers of the whole checkpoints that lie there.

        Raises:
            ConfigurationError: There is none, or one is damaged.
        """
        numbers = [place for place in range(1, len(self.stream) + 1) if self._at(place).is_dir()]
        if not numbers:
            raise ConfigurationError(f"{short(self.root)} has no checkpoint yet; train it first")
        for number in numbers:
            verify(self._at(number))
        return numbers

    def _at(self, number: int) -> Path:
        return self.root / FOLDER / folder_name(number)

    def _task(self, name: str) -> str:
        found = [task.id for task in self.stream.tasks if name in (task.id, task.name, task.instruction)]
        if not found:
            known = ", ".join(task.name for task in self.stream.tasks)
            raise ConfigurationError(f"the run has no task {harmless(name, 60)!r}; it has {harmless(known, 150)}")
        return found[0]


def _stream(summary: dict[str, Any], run: Path) -> Stream:
    """The stream as ``run.json`` tells it."""
    where = short(run / "run.json")
    require_entries(summary, {"tasks": list, "experiences": list, "stream": str}, where, "restore it or run again")
    try:
        tasks = {item["id"]: Task(str(item["id"]), str(item["instruction"]), 0) for item in summary["tasks"]}
        experiences = tuple(
            Experience(index, str(item["name"]), tuple(tasks[one] for one in item["tasks"]))
            for index, item in enumerate(summary["experiences"])
        )
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{where} does not tell the run's stream; restore it or run again") from error
    return Stream(summary["stream"], experiences)


def _is_planned(item: object) -> bool:
    return isinstance(item, list) and [type(part) for part in item] == [int, str, int]


def _copy(source: Path, target: Path) -> None:
    """A copy whose time does not tell where it came from; the checkpoint is safe from what is done to it."""
    shutil.copyfile(source, target)
    os.utime(target, (_TIME, _TIME))

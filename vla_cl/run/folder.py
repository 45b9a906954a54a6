"""The folder of a run: settings, versions, success matrix, episodes, checkpoints."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.evaluation.table import TrialTable
from vla_cl.files import is_leftover, remove_leftovers, write_json, write_text
from vla_cl.interfaces.layout import TableLayout
from vla_cl.metrics.matrix import ScoreMatrix, matrix_file
from vla_cl.scores import SUCCESS, Measure
from vla_cl.settings.speed import WHERE_AND_HOW_FAST, is_among
from vla_cl.storage.locks import only_writer
from vla_cl.storage.manifest import of_run, require_text_seal, seal, seal_text
from vla_cl.storage.names import VIDEOS
from vla_cl.trust.reading import read_text
from vla_cl.trust.text import counted, harmless, short
from vla_cl.trust.yaml_files import YAML_BYTES, read_yaml_object
from vla_cl.types import ConfigurationError, Stream

PACKAGES = (
    "vla-cl", "lerobot", "torch", "numpy", "gymnasium", "mujoco", "metaworld", "robosuite", "hf-libero", "transformers",
    "peft", "accelerate", "av",
)  # fmt: skip

CONFIG, LOCK, UNDERWAY = "config.yaml", ".lock", "underway"

_BEFORE_THE_FIRST_STEP = frozenset({CONFIG, "run.json", "data.json", "episodes.parquet", "trials.parquet"})

_PLACES = ("stream.datasets", "data.datasets")  # datasets are compared by content (`vla_cl.data.identity`)
MAY_DIFFER = (*WHERE_AND_HOW_FAST, *_PLACES)
"""Settings that a resumed run may change: they decide where and how fast, not what."""

_BEFORE = {"data.held_out": 0, "data.held_out_seed": 0, "data.held_out_frames": 32, "data.action_groups": None}
"""Settings that runs of older versions do not have, and what those did."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """One folder per learnt experience."""
        return self.root / "checkpoints"

    @property
    def videos(self) -> Path:
        """Filmed episodes."""
        return self.root / VIDEOS

    @property
    def has_begun(self) -> bool:
        """Whether a step has been learnt that is noted."""
        return any(self.checkpoints.glob("[0-9][0-9][0-9]")) or (self.root / UNDERWAY).is_dir()

    @contextmanager
    def open(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Be the only process that writes the run, from its start, or from where an earlier one came to.

        What a kill left half written is removed. A new run that is refused before its first step leaves no folder.

        Raises:
            ConfigurationError: Another process writes it, or the folder holds another run, or something else.
        """
        missing = [folder for folder in (self.root, *self.root.parents) if not os.path.lexists(folder)]
        try:
            with self._as_only_writer(settings):
                try:
                    yield
                except ConfigurationError:
                    if missing and not self.has_begun:
                        self._remove_what_says_nothing()
                    raise
        except ConfigurationError:
            for folder in missing:
                with suppress(OSError):  # something lies there
                    folder.rmdir()
            raise

    def _remove_what_says_nothing(self) -> None:
        """Settings, summary and empty table of a run without a step; where anything else lies, all stays."""
        lying = [path for path in self.root.iterdir() if not path.name.startswith(LOCK)]
        if all(path.name in _BEFORE_THE_FIRST_STEP for path in lying):
            for path in lying:
                path.unlink()

    @contextmanager
    def _as_only_writer(self, settings: Mapping[str, Any]) -> Iterator[None]:
        with only_writer(self.root / LOCK, f"the run {short(self.root)}"):
            if self._is_foreign():
                raise ConfigurationError(
                    f"{short(self.root)} exists and is no run (it has no config.yaml); give {_another(settings)}"
                )
            remove_leftovers(self.root)
            for folder in (self.videos, self.checkpoints):
                remove_leftovers(folder, alone=True)
            self._keep_settings(settings)
            yield

    def stage(self, done: int, total: int, within: str = "") -> str:
        """From where the same command goes on, in words.

        Args:
            done: Experiences learnt and evaluated.
            total: Of the stream.
            within: Where in the next one.
        """
        if done == total:
            return f"{self.root} is finished, {counted(total, 'experience')} learnt; nothing is learnt again"
        return f"continuing {self.root} after {done} of {counted(total, 'experience')}{within}"

    def _is_foreign(self) -> bool:
        """Whether something lies there that no run and no kill at its beginning has left."""
        if (self.root / CONFIG).is_file():
            return False
        return any(not path.name.startswith(LOCK) and not is_leftover(path) for path in self.root.iterdir())

    def _keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Write ``config.yaml``, or, where an experience has been learnt, make sure that it is the same run."""
        from omegaconf import OmegaConf

        if not self.has_begun:
            write_text(self.root / CONFIG, seal_text(OmegaConf.to_yaml(OmegaConf.create(dict(settings)))))
            return
        from vla_cl.run.checkpoint import require_same_program  # which imports torch

        require_same_program(self.checkpoints)
        before = read_settings(self.root / CONFIG)
        now = dict(settings)
        changed = {key for key in _differences(before, now) if not is_among(key, MAY_DIFFER)}
        changed -= {key for key in changed & _BEFORE.keys() if _older(before, now, key)}
        if changed:
            raise ConfigurationError(
                f"{short(self.root, 90)} holds a run with other settings ({harmless(', '.join(sorted(changed)), 80)}); "
                f"give {_another(settings)}, or the same settings to continue it"
            )

    def trials(self, layout: TableLayout) -> TrialTable:
        """The table of trials; empty for a new run."""
        path = self.root / layout.file
        return TrialTable.read(path, layout) if path.is_file() else TrialTable(layout)

    def write_results(
        self,
        table: TrialTable,
        stream: Stream,
        experiences_done: int,
        shown: bool = True,
    ) -> None:
        """Write the table of trials and the matrices that follow from it; without a trial there are none.

        Args:
            table: Of one evaluator.
            stream: What is learnt.
            experiences_done: Rows of the matrices.
            shown: Whether its first measure is the run's first.
        """
        table.write(self.root / table.layout.file)
        for place, measure in enumerate(table.layout.measures):
            path = self.root / matrix_file(measure, shown=shown and place == 0)
            if experiences_done and len(table):
                score_matrix(table, stream, experiences_done, measure).write(path)
            else:
                path.unlink(missing_ok=True)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        write_json(self.root / "run.json", seal(of_run(summary, self.root)))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's ``config.yaml``, as text says them: ``${...}`` in them is text, too.

    Raises:
        ConfigurationError: The file is damaged, or somebody edited it.
    """
    remedy = "restore it, or delete its first line if you edited it on purpose"
    require_text_seal(read_text(path, "the settings of the run", remedy, YAML_BYTES), short(path), remedy)
    return read_yaml_object(path, "the settings of the run", remedy)


def require_robot(settings: Mapping[str, Any], root: Path, command: str) -> None:
    """Refuse a run of another family where only those of robots can be taken.

    Args:
        settings: Of the run.
        root: Its folder.
        command: What was asked for.

    Raises:
        ConfigurationError: It is one.
    """
    family = settings.get("family")
    name = family.get("name") if isinstance(family, Mapping) else "robot"
    if name != "robot":
        raise ConfigurationError(
            f"{command} takes runs of robots, but {short(root)} is one of the family {harmless(str(name), 60)!r}; "
            "vla-cl metrics, compare and report read it"
        )


def score_matrix(table: TrialTable, stream: Stream, experiences_done: int, measure: Measure = SUCCESS) -> ScoreMatrix:
    """The matrix of the reported trials after the first experiences of a stream."""
    tasks = [task.id for task in stream.tasks]
    scores, spread = (np.full((experiences_done, len(tasks)), np.nan) for _ in range(2))
    counts = np.zeros((experiences_done, len(tasks)), dtype=np.int64)
    for row in range(experiences_done):
        for task, cell in table.cells(row, "report", measure=measure).items():
            place = row, tasks.index(task)
            scores[place], counts[place], spread[place] = cell.value, cell.count, cell.spread
    before = table.cells(-1, "report", measure=measure)
    untrained = [before[task] for task in tasks] if set(tasks) <= before.keys() else None
    selecting = table.curves("select", measure)
    points = {
        task: np.asarray([(experience, step, cell.value) for experience, step, cell in curve])
        for task, curve in selecting.items()
    }
    curves = {task: curve[:, 1:] for task, curve in points.items()}
    brought = [task.id for experience in stream for task in experience.tasks]
    repeated = {task: curve[:, 0].astype(np.int64) for task, curve in points.items() if brought.count(task) > 1}
    means = measure.kind == "mean"
    return ScoreMatrix(
        tasks=tuple(tasks),
        experiences=tuple(experience.name for experience in stream.experiences[:experiences_done]),
        scores=scores,
        counts=counts,
        curves=curves,
        curve_count=min((cell.count for curve in selecting.values() for *_, cell in curve), default=None),
        baseline=None if untrained is None else np.asarray([cell.value for cell in untrained]),
        baseline_count=None if untrained is None else min(cell.count for cell in untrained),
        stream=tuple(tuple(task.id for task in experience.tasks) for experience in stream),
        curve_experiences=repeated,
        measure=measure,
        spread=spread if means else None,
        baseline_spread=np.asarray([cell.spread for cell in untrained]) if means and untrained is not None else None,
    )


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    installed = ((name, _version(name)) for name in PACKAGES)
    return {"python": platform.python_version()} | {name: found for name, found in installed if found is not None}


@cache  # read from many small files, and it does not change while the process runs
def _version(package: str) -> str | None:
    """Version of an installed package; None: it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine(device: str) -> dict[str, object]:
    """What a run ran on."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = [
            line.partition(":")[2].strip() for line in information.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1), "device": device}


def _older(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> bool:
    """Whether a setting is only missing in a run of before, which did what it says."""
    group, _, name = key.partition(".")
    held = before.get(group)
    return name not in (held if isinstance(held, Mapping) else {}) and now[group].get(name) == _BEFORE[key]


def _another(settings: Mapping[str, Any]) -> str:
    """What to set for another folder: where ``output_dir`` is given, the run's name decides nothing."""
    given = settings.get("output_dir")
    return "output_dir=<a new folder>" if given else "name=<another> or output_dir=<a new folder>"


def _differences(left: Any, right: Any, prefix: str = "") -> set[str]:  # noqa: ANN401 - nested plain data
    """Dotted names of the leaves in which two nested dictionaries differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = left.keys() | right.keys()
        return {name for key in keys for name in _differences(left.get(key), right.get(key), f"{prefix}{key}.")}
    return set() if left == right else {prefix.rstrip(".")}

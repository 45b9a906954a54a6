"""Reads run folders: what the report needs of each, checked, with a sentence for everything that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.evaluation.table import require_rows_seal
from vla_cl.interfaces.layout import TRIALS, TrialLayout
from vla_cl.metrics import ScoreMatrix
from vla_cl.metrics.matrix import MATRIX, load_matrices, of_measure, rollouts_skipped
from vla_cl.report.labels import run_labels
from vla_cl.report.numbers import last_row
from vla_cl.rollout.table import EPISODES
from vla_cl.scores import SUCCESS
from vla_cl.storage.manifest import require_of_run, require_readable, require_seal, require_text_seal
from vla_cl.trust.reading import parse_json_object, read_json_object, read_lines, read_text, require_entries
from vla_cl.trust.tables import read_rows
from vla_cl.trust.text import harmless, harmless_data, harmless_lines, short, told_as
from vla_cl.trust.yaml_files import YAML_BYTES
from vla_cl.types import ConfigurationError, Outcome

ARRANGEMENTS = ("sequential", "joint", "independent")
EPISODE_COLUMNS = ("experience", "step", "task", "initial_state", "outcome", "error", "video")

TABLE_BYTES = 1024 * 2**20
"""Most bytes of an episode table: a million episodes, some with a traceback."""

_RESTORE = "restore the file or run again"
_ENTRIES: dict[str, type | tuple[type, ...]] = {
    "name": str, "method": str, "arrangement": str, "status": str, "experiences": list,
}  # fmt: skip
_OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "seeds": dict, "seconds": dict, "versions": dict, "machine": dict, "tasks": list, "passed_over": list,
    "told_the_task": bool, "memory_bytes": (int, float), "parameters": (int, float), "steps": (int, float),
}  # fmt: skip
"""Entries of ``run.json`` that are shown where they are there."""


@dataclass(frozen=True)
class EpisodeRow:
    """One evaluated episode, as far as the report shows it."""

    experience: int
    step: int
    task: str
    initial_state: int
    outcome: Outcome
    error: str | None
    video: str | None  # relative to the run folder


@dataclass(frozen=True)
class TrainingCurve:
    """Loss over optimizer steps since the start of the stream; the two tuples have one length."""

    steps: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class RunRecord:
    """One run folder, read.

    Attributes:
        folder: Where it lies.
        label: What the report calls it; unique within one report.
        info: The whole of ``run.json``.
        experiences: Name and task ids of every experience, in order.
        matrix: None while nothing has been evaluated.
        others: The matrices of further measures.
        boundaries: Optimizer steps since the start of the stream at which each row of the matrix was measured; None if
            neither episodes nor training metrics tell.
        episodes: Every evaluated episode of a robot; None without ``episodes.parquet``.
        trials: Experience and optimizer step of every evaluated trial, episodes too; None without their table.
        borders: Optimizer steps at which the training log goes on to another experience.
        training: None without ``metrics.jsonl``.
        config: Text of ``config.yaml``; None without it.
        missing: One sentence for each optional file that is not there.
    """

    folder: Path
    label: str
    info: Mapping[str, Any]
    experiences: tuple[tuple[str, tuple[str, ...]], ...]
    matrix: ScoreMatrix | None
    boundaries: tuple[float, ...] | None
    borders: tuple[float, ...]
    episodes: tuple[EpisodeRow, ...] | None
    trials: tuple[tuple[int, int], ...] | None
    training: TrainingCurve | None
    config: str | None
    missing: tuple[str, ...]
    others: tuple[ScoreMatrix, ...] = ()

    @property
    def arrangement(self) -> str:
        """``sequential``, ``joint`` or ``independent``."""
        return str(self.info["arrangement"])

    @property
    def train_seed(self) -> int | None:
        """The training seed, where the run tells it."""
        seed = (self.info.get("seeds") or {}).get("train_seed")
        return seed if type(seed) is int else None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.info["status"] == "finished")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task ids in the order of the stream."""
        if self.matrix is not None:
            return tuple(self.matrix.tasks)
        return tuple(dict.fromkeys(task for _, tasks in self.experiences for task in tasks))


def load_runs(folders: Sequence[Path], measure: str | None = None) -> list[RunRecord]:
    """Read several run folders and give each a label of its own.

    Args:
        folders: Where they lie.
        measure: Name of the measure whose matrix is read; by default the one that each run shows.

    Raises:
        ConfigurationError: No folder, one folder twice, a folder that cannot be read as a run, or one without the
            measure.
    """
    if not folders:
        raise ConfigurationError("expected at least one run folder to report on, got none; give the folder of a run")
    resolved = [Path(folder).resolve() for folder in folders]
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise ConfigurationError(f"run folder {short(folder)} was given more than once; name each run once")
    infos = [_read_info(folder) for folder in resolved]
    labels = run_labels(infos, resolved)
    return [_load(folder, info, label, measure) for folder, info, label in zip(resolved, infos, labels, strict=True)]


def _load(folder: Path, info: Mapping[str, Any], label: str, measure: str | None) -> RunRecord:
    """Read everything but ``run.json``."""
    matrices = _read_matrices(folder, finished=info["status"] == "finished")
    matrix = of_measure(matrices, measure, short(folder)) if matrices else None
    episodes = _read_episodes(folder)
    lines, damaged = _read_metrics(folder)
    config = folder / "config.yaml"
    # A robot's rollouts have a table of their own; held-out scores, and other families, have the table of trials.
    rolled_out = matrix.measure.name == SUCCESS.name if matrix is not None else info.get("family", "robot") == "robot"
    rolled_out = rolled_out and (episodes is not None or not (folder / TRIALS).is_file())
    trials = _of_episodes(episodes) if rolled_out else _read_trials(folder)
    table = EPISODES.file if rolled_out else TRIALS
    lacking = "crashed episodes cannot be counted and no videos are shown" if rolled_out else "trials cannot be counted"
    optional = {
        table: (trials is not None, lacking),
        "metrics.jsonl": (lines is not None, "no training curve is shown"),
        "config.yaml": (config.is_file(), "its settings are not shown"),
        "matrix.json": (
            matrix is not None,
            "there are no metrics: rollouts were skipped"
            if rollouts_skipped(folder)
            else "nothing has been evaluated yet",
        ),
    }
    notes = [f"no {name}, so {effect}." for name, (there, effect) in optional.items() if not there]
    if damaged:
        notes.append(f"{damaged} damaged lines of metrics.jsonl are passed over.")
    if lines is not None and info["status"] == "finished" and _last_step(lines) < info.get("steps", 0):
        notes.append(f"metrics.jsonl ends at step {_last_step(lines)} of {info['steps']}: its curves are not whole.")
    notes += [harmless(str(sentence), 300) for sentence in info.get("passed_over") or ()]
    experiences = tuple((str(entry["name"]), tuple(map(str, entry["tasks"]))) for entry in info["experiences"])
    return RunRecord(
        folder=folder,
        label=label,
        info=info,
        experiences=experiences,
        matrix=matrix,
        others=tuple(other for other in matrices if other is not matrix),
        boundaries=_boundaries(matrix, trials, lines),
        borders=_borders(lines),
        episodes=episodes,
        trials=trials,
        training=_training_curve(lines),
        config=_read_config(config) if config.is_file() else None,
        missing=tuple(f"{label}: {sentence}" for sentence in notes),
    )


def _read_info(folder: Path) -> Mapping[str, Any]:
    """Read and check ``run.json``."""
    if not folder.is_dir():
        if folder.exists():
            raise ConfigurationError(f"expected a run folder, got {short(folder)}, a file; {_folder_of(folder)}")
        siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        nearest = difflib.get_close_matches(folder.name, siblings, n=1)
        hint = f"did you mean {folder.parent / nearest[0]}?" if nearest else "give the folder that a run wrote"
        raise ConfigurationError(f"expected a run folder, got {short(folder)}, which is not a folder; {hint}")
    path = folder / "run.json"
    if not path.is_file():
        raise ConfigurationError(
            f"expected a run folder with a run.json, but {short(folder)} has none; give the folder that a run wrote"
        )
    info = read_json_object(path, "the summary of the run", _RESTORE)
    require_seal(info, short(path), "give the run's command again: it writes the file anew")
    require_of_run(info, folder, short(path), "give the run's command again: it writes the file anew")
    require_readable(info, short(path))
    require_entries(info, _ENTRIES, short(path), "the file is damaged")
    if info["arrangement"] not in ARRANGEMENTS:
        raise ConfigurationError(
            f"{short(path)} gives arrangement {harmless(repr(info['arrangement']), 40)}; allowed are "
            f"{', '.join(ARRANGEMENTS)}"
        )
    for entry in info["experiences"]:
        if not (isinstance(entry, dict) and "name" in entry and isinstance(entry.get("tasks"), list)):
            raise ConfigurationError(
                f"{short(path)} should list experiences with 'name' and 'tasks', got {harmless(repr(entry), 60)}; the "
                "file is damaged"
            )
    for key, kinds in _OPTIONAL.items():
        if info.get(key) is not None:
            require_entries(info, {key: kinds}, short(path), "the file is damaged")
    tasks = [list(map(str, entry["tasks"])) for entry in info["experiences"]]
    shown: dict[str, Any] = harmless_data(info)
    for entry, ids in zip(shown["experiences"], tasks, strict=True):  # ids are compared with those of other files
        entry["tasks"] = ids
    return shown


def _folder_of(file: Path) -> str:
    """What to give in place of a file."""
    runs = [parent for parent in file.parents[:3] if (parent / "run.json").is_file()]
    return f"give the run that it lies in, {short(runs[0])}" if runs else "give the folder that a run wrote"


def _read_matrices(folder: Path, finished: bool) -> list[ScoreMatrix]:
    """The matrix of each measure; only a run that is still going may lack them."""
    if (folder / MATRIX).is_file():
        return load_matrices(folder)
    if finished and rollouts_skipped(folder) is None:
        raise ConfigurationError(
            f"{short(folder)} is a finished run without matrix.json; restore the file or evaluate the run again"
        )
    return []


def _of_episodes(episodes: Sequence[EpisodeRow] | None) -> tuple[tuple[int, int], ...] | None:
    return None if episodes is None else tuple((episode.experience, episode.step) for episode in episodes)


def _read_trials(folder: Path) -> tuple[tuple[int, int], ...] | None:
    """Experience and step of every row of the table of trials, whatever else it has."""
    path = folder / TRIALS
    if not path.is_file():
        return None
    require_rows_seal(path, TrialLayout.title)
    rows = read_rows(path, TrialLayout.title, "restore it or move it away", ("experience", "step"), TABLE_BYTES)
    with told_as(
        f"{short(path)} cannot be read as a table of trials", "restore it or move it away", ValueError, TypeError
    ):
        return tuple((int(row["experience"]), int(row["step"])) for row in rows)


def _read_episodes(folder: Path) -> tuple[EpisodeRow, ...] | None:
    """The episode table."""
    path = folder / "episodes.parquet"
    if not path.is_file():
        return None
    require_rows_seal(path, EPISODES.title)
    rows = read_rows(path, "the episode table", "restore it or move it away", EPISODE_COLUMNS, TABLE_BYTES)
    with told_as(
        f"{short(path)} cannot be read as an episode table", "restore it or move it away", ValueError, TypeError
    ):
        return tuple(_episode_row(row) for row in rows)


def _episode_row(row: Mapping[str, Any]) -> EpisodeRow:
    """One row of the table; text columns may hold null."""
    return EpisodeRow(
        experience=int(row["experience"]),
        step=int(row["step"]),
        task=str(row["task"]),
        initial_state=int(row["initial_state"]),
        outcome=Outcome(row["outcome"]),
        error=None if row["error"] is None else harmless_lines(str(row["error"])),
        video=None if row["video"] is None else str(row["video"]),
    )


def _read_metrics(folder: Path) -> tuple[list[dict[str, Any]] | None, int]:
    """The lines of ``metrics.jsonl``, and how many could not be read.

    A last line without its end was cut off by a kill and is left out; so is whatever else is no JSON object, for
    example half a line that a resumed run wrote on.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None, 0
    lines, damaged = [], 0
    for _, content, whole in read_lines(path, "the log of the run", "move it away"):
        if not content.strip() or not whole:
            continue
        try:
            line = parse_json_object(content, "a line", "")
            require_seal(line, "it", "")
            lines.append(line)
        except ConfigurationError:
            damaged += 1
    return lines, damaged


def _read_config(path: Path) -> str:
    """The text of ``config.yaml``, unless it has changed since it was written."""
    text = read_text(path, "the settings of the run", _RESTORE, YAML_BYTES)
    require_text_seal(text, short(path), _RESTORE)
    return text


def _last_step(lines: Sequence[Mapping[str, Any]]) -> float:
    return max((line["step"] for line in lines if _is_number(line.get("step"))), default=0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _training_curve(lines: Sequence[Mapping[str, Any]] | None) -> TrainingCurve | None:
    """Steps and losses of the lines that have both; of a step logged twice, as after a kill, the last counts."""
    points = {
        line["step"]: line["loss"]
        for line in lines or ()
        if _is_number(line.get("step")) and _is_number(line.get("loss"))
    }
    steps = tuple(sorted(points))
    return TrainingCurve(steps, tuple(points[step] for step in steps)) if points else None


def _boundaries(
    matrix: ScoreMatrix | None,
    trials: Sequence[tuple[int, int]] | None,
    lines: Sequence[Mapping[str, Any]] | None,
) -> tuple[float, ...] | None:
    """The step at which each row of the matrix was measured: the last one that is recorded for the experience."""
    if matrix is None:
        return None
    last: dict[int, float] = {}
    for line in lines or ():
        if _is_number(line.get("step")) and isinstance(line.get("experience"), int):
            last[line["experience"]] = max(last.get(line["experience"], 0), line["step"] + 1)
    evaluated: dict[int, float] = {}
    for experience, step in trials or ():
        evaluated[experience] = max(evaluated.get(experience, 0), step)
    last |= evaluated  # the evaluation's own step is exact; the log may skip the last updates
    measured = last_row(matrix)
    rows = range(0 if measured is None else measured + 1)
    return tuple(float(last[row]) for row in rows) if rows and all(row in last for row in rows) else None


def _borders(lines: Sequence[Mapping[str, Any]] | None) -> tuple[float, ...]:
    """The last step that is logged of each experience but the last one; the training of a run without rollouts, too."""
    last: dict[int, float] = {}
    for line in lines or ():
        if _is_number(line.get("step")) and _is_number(line.get("loss")) and type(line.get("experience")) is int:
            last[line["experience"]] = max(last.get(line["experience"], 0), line["step"])
    return tuple(float(last[experience]) for experience in sorted(last)[:-1])

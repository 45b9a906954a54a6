"""Where a run is between two checkpoints: within an experience, or behind its last step and before its evaluation.

``underway/`` holds one such place, the newest; it goes when the experience's checkpoint is on the disk. Within an
experience it has the weights, the optimizer and what the method keeps within a task; what a task's beginning makes is
made again (`vla_cl.training.learning.Learning.continue_at`). Behind the last step it is a whole checkpoint but for the
evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from vla_cl.evaluation.table import TrialTable
from vla_cl.files import remove_folder, replacing_folder, write_json
from vla_cl.interfaces import Method, Model
from vla_cl.run import checkpoint
from vla_cl.run.checkpoint import STATE, Progress
from vla_cl.run.folder import UNDERWAY
from vla_cl.storage.manifest import RUN_FORMAT, of_run, require_of_run, verify_manifest, write_manifest
from vla_cl.training.learning import Learning
from vla_cl.trust.reading import read_json_object, require_entries
from vla_cl.trust.tensors import load_tensors
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

MODEL = "pretrained_model"
"""The model behind the last step, within the folder."""

_NOTE, _WEIGHTS, _STATE = f"{STATE}/underway.json", f"{STATE}/weights.safetensors", f"{STATE}/learning.safetensors"
_REMEDY = "remove the folder, and the run continues from the checkpoint before"


@dataclass(frozen=True)
class Underway:
    """A place between two checkpoints.

    Attributes:
        folder: Where it lies.
        experience: Which experience is being learnt, its position in the stream.
        done: Steps of it.
        learnt: Whether its last step is done and the method has ended the task; what is missing is the evaluation.
        train_seconds: Of the run, up to here.
        evaluate_seconds: Of the run, up to here.
    """

    folder: Path
    experience: int
    done: int
    learnt: bool
    train_seconds: float
    evaluate_seconds: float

    @property
    def words(self) -> str:
        """Where it is, behind "after 1 of 3 experiences"."""
        return ", the next one learnt and not evaluated" if self.learnt else f" and {self.done} steps of the next one"

    @property
    def weights(self) -> dict[str, Tensor]:
        """``module.state_dict()`` within an experience.

        Raises:
            ConfigurationError: The file is damaged.
        """
        return load_tensors(self.folder / _WEIGHTS, "the weights of the run", _REMEDY)

    @property
    def state(self) -> dict[str, Tensor]:
        """`Learning.state_dict` within an experience.

        Raises:
            ConfigurationError: The file is damaged.
        """
        return load_tensors(self.folder / _STATE, "the optimizer of the run", _REMEDY)


def save_within(
    run: Path, model: Model, learning: Learning, progress: Progress, experience: int, tables: Sequence[TrialTable]
) -> None:
    """Note a place within an experience.

    Args:
        run: The run's folder.
        model: With its weights.
        learning: How far it is.
        progress: Times so far; its number of steps is not looked at.
        experience: Which one.
        tables: The trials so far.

    Raises:
        OSError: The disk is full or cannot be written; the place before is still there.
    """
    with replacing_folder(run / UNDERWAY) as folder:
        (folder / STATE).mkdir()
        save_file(_plain(model.module.state_dict()), folder / _WEIGHTS)
        save_file(_plain(learning.state_dict()), folder / _STATE)
        _write(folder, run, progress, experience, learning.done, tables, learnt=False)


def save_learnt(
    run: Path,
    model: Model,
    method: Method,
    done: int,
    progress: Progress,
    experience: int,
    tables: Sequence[TrialTable],
) -> None:
    """Note that an experience has been learnt and is yet to be evaluated.

    Args:
        run: The run's folder.
        model: As the method has left it.
        method: With what it remembers.
        done: Steps of the experience.
        progress: Times so far.
        experience: Which one.
        tables: The trials so far.

    Raises:
        OSError: The disk is full or cannot be written; the place before is still there.
    """
    with replacing_folder(run / UNDERWAY) as folder:
        (folder / STATE).mkdir()
        model.save(folder / MODEL)
        checkpoint.write_method(folder, method)
        _write(folder, run, progress, experience, done, tables, learnt=True)


def find(run: Path, experiences_done: int) -> tuple[Underway | None, str | None]:
    """The place behind the newest checkpoint, if there is one, and a sentence if it is damaged.

    Args:
        run: The run's folder.
        experiences_done: Of the newest checkpoint; a place within another experience is an old one.
    """
    folder = run / UNDERWAY
    if not folder.is_dir():
        return None, None
    try:
        verify_manifest(folder, "the place of the run", _REMEDY)
        found = _read(folder, run)
    except ConfigurationError as error:
        return None, harmless(f"passing over {short(folder)}: {error}", 300)
    return (found if found.experience == experiences_done else None), None


def remove(run: Path) -> None:
    """The checkpoint behind it is on the disk."""
    remove_folder(run / UNDERWAY)


def _write(
    folder: Path, run: Path, progress: Progress, experience: int, done: int, tables: Sequence[TrialTable], learnt: bool
) -> None:
    note = {
        "format": RUN_FORMAT,
        "experience": experience,
        "done": done,
        "learnt": learnt,
        "train_seconds": progress.train_seconds,
        "evaluate_seconds": progress.evaluate_seconds,
    }
    write_json(folder / _NOTE, of_run(note, run))
    for table in tables:
        table.write(folder / STATE / table.layout.file)
    write_manifest(folder)


def _read(folder: Path, run: Path) -> Underway:
    content = read_json_object(folder / _NOTE, "the place of the run", _REMEDY)
    what = short(folder / _NOTE)
    require_of_run(content, run, what, _REMEDY)
    numbers: dict[str, type | tuple[type, ...]] = {
        "format": int,
        "experience": int,
        "done": int,
        "learnt": bool,
        "train_seconds": (int, float),
        "evaluate_seconds": (int, float),
    }
    require_entries(content, numbers, what, _REMEDY)
    if content["format"] != RUN_FORMAT or content["done"] < 1 or content["experience"] < 0:
        raise ConfigurationError(f"{what} is of another version of vla-cl, or damaged; {_REMEDY}")
    given = {name: content[name] for name in numbers if name != "format"}
    return Underway(folder, **given)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own: tied weights are written twice."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}

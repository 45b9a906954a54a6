"""What a run must remember at a task border: written whole or not at all, hashed, checked before it is used.

A checkpoint is a folder: ``pretrained_model/`` as the model's own ecosystem writes and reads it; ``training_state/``,
how far the run is; ``cl_state/``, what the method keeps; and, written last, ``MANIFEST.json`` with the size and SHA-256
of every file. Tensors are safetensors, the rest is JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from vla_cl.evaluation.table import TrialTable
from vla_cl.files import replacing_folder, write_json, write_link
from vla_cl.interfaces import Data, Method, Model
from vla_cl.storage.manifest import (
    MANIFEST,
    READABLE_RUNS,
    RUN_FORMAT,
    is_whole,
    of_run,
    require_of_run,
    verify_manifest,
    write_manifest,
)
from vla_cl.trust.reading import read_json_object, read_text, require_entries
from vla_cl.trust.tensors import load_tensors
from vla_cl.trust.text import harmless, short, told_as
from vla_cl.types import ConfigurationError, Experience

FOLDER = "checkpoints"
"""Where the checkpoints of a run lie, within its folder."""

LAST = "last"
"""The newest checkpoint's other name."""

STATE = "training_state"
"""How far the run is: a folder within a checkpoint's, with the table of trials up to there."""

PROGRESS = f"{STATE}/progress.json"
"""How far a checkpoint is, within its folder."""

STATE_BYTES = 512 * 2**20
"""Largest ``method.json``: the rows that a memory of ten million samples names."""

_NUMBER = r"[0-9]{3,9}"
_NAME_BYTES = 64
_REMEDY = "use another checkpoint of the run"


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        experiences_done: Experiences learnt and evaluated.
        step: Optimizer steps since the start of the stream.
        train_seconds: Time spent training.
        evaluate_seconds: Time spent in rollouts.
        passed_over: A sentence for each damaged checkpoint that the run once went on without.
    """

    experiences_done: int
    step: int
    train_seconds: float
    evaluate_seconds: float
    passed_over: tuple[str, ...] = ()


def folder_name(experiences_done: int) -> str:
    """``checkpoints/<this>``: 001 after the first experience."""
    return f"{experiences_done:03d}"


def save(
    checkpoints: Path,
    model: Model,
    method: Method,
    progress: Progress,
    tables: Sequence[TrialTable] = (),
) -> Path:
    """Write ``checkpoints/<NNN>`` and point ``checkpoints/last`` at it.

    Args:
        checkpoints: Folder of the run's checkpoints.
        model: What has learnt.
        method: With what it remembers.
        progress: How far the run is.
        tables: The trials so far, so that the run's own tables can be rebuilt.

    Raises:
        OSError: The disk is full or cannot be written; nothing half-written keeps the final name.
    """
    target = checkpoints / folder_name(progress.experiences_done)
    with replacing_folder(target) as folder:
        (folder / STATE).mkdir()
        model.save(folder / "pretrained_model")
        write_json(
            folder / PROGRESS,
            of_run({**asdict(progress), "format": RUN_FORMAT}, checkpoints.parent),
        )
        write_method(folder, method)
        for table in tables:
            table.write(folder / STATE / table.layout.file)
        write_manifest(folder)
    point_at(target)
    return target


def write_method(folder: Path, method: Method) -> None:
    """Write what a method keeps to ``cl_state/``; `load_method` reads it."""
    (folder / "cl_state").mkdir()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in method.state_dict().items()}
    save_file(tensors, folder / "cl_state" / "method.safetensors")
    write_json(folder / "cl_state" / "method.json", {"method": method.name, "state": method.extra_state()})


def point_at(folder: Path) -> None:
    """Let ``checkpoints/last`` be this checkpoint: a link, as LeRobot has it, or a text file where there are none."""
    last = folder.with_name(LAST)
    if not last.is_symlink() or last.readlink() != Path(folder.name):
        write_link(last, folder.name)


def behind_last(path: Path) -> Path:
    """A path that leads through a ``checkpoints/last`` that is a text file, led through the checkpoint it names."""
    for last in (path, path.parent):
        if last.name == LAST and last.parent.name == FOLDER and last.is_file():
            name = read_text(last, "the name of the newest checkpoint", _REMEDY, _NAME_BYTES).strip()
            if re.fullmatch(_NUMBER, name):
                return last.with_name(name) / path.relative_to(last)
    return path


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of ours, whole or not: LeRobot's own have neither a manifest nor a method's state."""
    return (folder / MANIFEST).exists() or (folder / "cl_state").is_dir()


def verify(folder: Path) -> None:
    """Compare every file with the manifest, and the run that wrote it with the run that it lies in.

    Raises:
        ConfigurationError: There is no manifest, a file is missing, of another size, changed, or not listed, or it is
            the checkpoint of another run.
    """
    verify_manifest(folder, "checkpoint", _REMEDY)
    path = folder / PROGRESS
    if folder.parent.name == FOLDER and path.is_file():
        content = read_json_object(path, "the progress of the checkpoint", _REMEDY)
        require_of_run(content, folder.parent.parent, f"the checkpoint {short(folder)}", _REMEDY)


@dataclass(frozen=True)
class Newest:
    """The newest whole checkpoint of a run.

    Attributes:
        folder: Its folder.
        passed_over: A sentence for each newer one that is damaged; whoever shows results names them.
    """

    folder: Path
    passed_over: tuple[str, ...]


def find_newest(checkpoints: Path) -> Newest | None:
    """The newest checkpoint that is whole; None if none was ever written.

    Raises:
        ConfigurationError: There are checkpoints, and every one is damaged.
    """
    passed_over: list[str] = []
    for folder in _newest_first(checkpoints):
        try:
            verify(folder)
            if (done := load_progress(folder).experiences_done) != int(folder.name):
                raise ConfigurationError(f"{folder} holds the checkpoint after {done} experiences, not its own")
        except ConfigurationError as error:
            passed_over.append(harmless(f"passing over a checkpoint: {error}", 300))
            print(passed_over[-1])
            continue
        return Newest(folder, tuple(passed_over))
    if passed_over:
        raise ConfigurationError(
            f"no checkpoint in {short(checkpoints)} is whole, {len(passed_over)} are damaged; restore one, or remove "
            "them all to begin anew"
        )
    return None


def _newest_first(checkpoints: Path) -> list[Path]:
    folders = [path for path in checkpoints.glob("[0-9]*") if re.fullmatch(_NUMBER, path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name), reverse=True)


def load_progress(folder: Path) -> Progress:
    """How far the run was.

    Raises:
        ConfigurationError: The file does not say.
    """
    path = folder / PROGRESS
    content = read_json_object(path, "the progress of the checkpoint", _REMEDY)
    numbers: dict[str, type | tuple[type, ...]] = {
        "experiences_done": int,
        "step": int,
        "train_seconds": (int, float),
        "evaluate_seconds": (int, float),
    }
    require_entries(content, numbers, short(path), _REMEDY)
    passed_over = content.pop("passed_over", [])
    content.pop("run", None)
    content.pop("format", None)
    texts = isinstance(passed_over, list) and all(isinstance(sentence, str) for sentence in passed_over)
    if content.keys() != numbers.keys() or min(content.values()) < 0 or not texts:
        raise ConfigurationError(f"{short(path)} is damaged: it says {harmless(str(content), 80)}; {_REMEDY}")
    return Progress(**content, passed_over=tuple(passed_over))


def require_same_program(checkpoints: Path) -> None:
    """Refuse to continue a run whose first experiences were learnt with other random numbers or another method.

    The newest checkpoint whose note of progress is whole tells: all of a run are of one format.

    Raises:
        ConfigurationError: It was written by a version in which the same command gives other weights.
    """
    for folder in _newest_first(checkpoints):
        if not is_whole(folder, PROGRESS):
            continue
        written = read_json_object(folder / PROGRESS, "the progress of the checkpoint", _REMEDY).get("format", 1)
        if type(written) is not int or written != RUN_FORMAT:
            where = short(checkpoints.parent, 90)
            opened = " (vla-cl report, metrics and evaluate still open it)" if written in READABLE_RUNS else ""
            raise ConfigurationError(
                f"the run {where} was begun by a version of vla-cl in which the same command gives "
                f"other weights, so this one cannot continue it; begin anew with output_dir=<a new folder>{opened}"
            )
        return


def load_method(folder: Path, method: Method, past: Iterator[tuple[Experience, Data]]) -> None:
    """Give a method its state back.

    Raises:
        ConfigurationError: The checkpoint was written by another method, or does not fit it.
    """
    state, name = read_method(folder)
    if name != method.name:
        raise ConfigurationError(
            f"checkpoint {short(folder)} was written by method {harmless(name, 40)!r}, the run asks for "
            f"{method.name!r}; resume with the same method, or start another run"
        )
    tensors = load_tensors(folder / "cl_state" / "method.safetensors", "the state of the method", _REMEDY)
    failures = (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError)
    with told_as(f"the state in {short(folder)} does not fit method {method.name!r}", _REMEDY, *failures):
        method.load_state_dict(tensors, state, past)


def read_method(folder: Path) -> tuple[dict[str, Any], str]:
    """What the method keeps beside its tensors, and its name.

    Raises:
        ConfigurationError: The file is damaged.
    """
    path = folder / "cl_state" / "method.json"
    content = read_json_object(path, "the state of the method", _REMEDY, STATE_BYTES)
    require_entries(content, {"method": str, "state": dict}, short(path), _REMEDY)
    return content["state"], content["method"]

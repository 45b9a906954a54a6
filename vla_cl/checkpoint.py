"""What a run must remember at a task border: written whole or not at all, hashed, checked before it is used.

A checkpoint is a folder: ``pretrained_model/`` as the model's own ecosystem writes and reads it; ``training_state/``,
how far the run is; ``cl_state/``, what the method keeps; and, written last, ``MANIFEST.json`` with the size and SHA-256
of every file. Tensors are safetensors, the rest is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from vla_cl.files import replacing_folder, sha256, write_json, write_text
from vla_cl.interfaces import Data, Method, Model
from vla_cl.manifest import MANIFEST, write_manifest
from vla_cl.types import ConfigurationError, Experience

EPISODES = "training_state/episodes.parquet"
"""The episode table up to a checkpoint, within its folder."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        experiences_done: Experiences learnt and evaluated.
        step: Optimizer steps since the start of the stream.
        train_seconds: Time spent training.
        evaluate_seconds: Time spent in rollouts.
        resumed_from: Each time that a damaged checkpoint was passed over: ``checkpoint``, the name of the one that the
            run went on from (None: the beginning), and ``passed_over``, name to reason.
    """

    experiences_done: int
    step: int
    train_seconds: float
    evaluate_seconds: float
    resumed_from: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is whole.

    Attributes:
        folder: None if there is none.
        passed_over: Names of newer ones, and why each cannot be used.
    """

    folder: Path | None
    passed_over: Mapping[str, str]


def folder_name(experiences_done: int) -> str:
    """``checkpoints/<this>``: 001 after the first experience."""
    return f"{experiences_done:03d}"


def save(
    checkpoints: Path,
    model: Model,
    method: Method,
    progress: Progress,
    write_episodes: Callable[[Path], None] | None = None,
) -> Path:
    """Write ``checkpoints/<NNN>`` and point ``checkpoints/last`` at it.

    Args:
        checkpoints: Folder of the run's checkpoints.
        model: What has learnt.
        method: With what it remembers.
        progress: How far the run is.
        write_episodes: Writes the episode table so far to the file it is given, so that the run's own can be rebuilt.

    Raises:
        OSError: The disk is full or cannot be written; nothing half-written keeps the final name.
    """
    target = checkpoints / folder_name(progress.experiences_done)
    with replacing_folder(target) as folder:
        (folder / "training_state").mkdir()
        (folder / "cl_state").mkdir()
        model.save(folder / "pretrained_model")
        write_json(folder / "training_state" / "progress.json", asdict(progress))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in method.state_dict().items()}
        save_file(tensors, folder / "cl_state" / "method.safetensors")
        write_json(folder / "cl_state" / "method.json", {"method": method.name, "state": method.extra_state()})
        if write_episodes is not None:
            write_episodes(folder / EPISODES)
        write_manifest(folder)
    write_text(checkpoints / "last", target.name + "\n")
    return target


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        ConfigurationError: There is no manifest, or a file is missing, of another size, or changed.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ConfigurationError(f"{folder} is not a complete checkpoint: it has no {MANIFEST}")
    try:
        files: dict[str, dict[str, object]] = json.loads(manifest.read_text())["files"]
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"{manifest} cannot be read ({error}); use another checkpoint of the run") from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ConfigurationError(f"checkpoint {folder} lacks {name}; use another checkpoint of the run")
        if path.stat().st_size != expected["bytes"] or sha256(path) != expected["sha256"]:
            raise ConfigurationError(
                f"{path} is damaged: it differs from its manifest; use another checkpoint of the run"
            )


def newest(checkpoints: Path) -> Path | None:
    """The newest checkpoint that is whole; None if there is none. A damaged one is passed over, and said to be."""
    return find_newest(checkpoints).folder


def find_newest(checkpoints: Path) -> Found:
    """The same, with what was passed over."""
    passed_over: dict[str, str] = {}
    for folder in sorted(checkpoints.glob("[0-9][0-9][0-9]"), reverse=True):
        try:
            verify(folder)
            if (done := load_progress(folder).experiences_done) != int(folder.name):
                raise ConfigurationError(f"{folder} holds the checkpoint after {done} experiences, not its own")
        except ConfigurationError as error:
            print(f"passing over a checkpoint: {error}")
            passed_over[folder.name] = str(error)
            continue
        return Found(folder, passed_over)
    return Found(None, passed_over)


def load_progress(folder: Path) -> Progress:
    """How far the run was."""
    content = json.loads((folder / "training_state" / "progress.json").read_text())
    return Progress(**content | {"resumed_from": tuple(content.get("resumed_from", ()))})


def load_method(folder: Path, method: Method, past: Iterator[tuple[Experience, Data]]) -> None:
    """Give a method its state back.

    Raises:
        ConfigurationError: The checkpoint was written by another method.
    """
    content = json.loads((folder / "cl_state" / "method.json").read_text())
    if content["method"] != method.name:
        raise ConfigurationError(
            f"checkpoint {folder} was written by method {content['method']!r}, the run asks for {method.name!r}; "
            "resume with the same method, or start another run"
        )
    method.load_state_dict(load_file(folder / "cl_state" / "method.safetensors"), content["state"], past)

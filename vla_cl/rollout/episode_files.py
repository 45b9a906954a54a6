"""Reading back the files of single episodes: staged demonstrations and recorded rollouts of an earlier process.

What is no whole episode of its task is damaged: its bytes are bounded by what such an episode can have, its arrays have
the suite's shapes, and its pictures are unpacked to no more than their size.
"""

from __future__ import annotations

import itertools
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.trust.arrays import read_arrays
from vla_cl.trust.reading import MIB
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, SuiteSpec, Task, Trajectory

Arrays = Mapping[str, NDArray[Any]]

AGAIN = "give the command again: it is recorded anew"

IMAGE = "image/"
"""How the names of arrays of pictures begin."""

_NAMES = ("states", "actions", "success", "belongs_to")
_PACKED = 1.01
"""A packed picture has at most this part of its raw bytes, and `_EACH` more."""

_EACH = 128


def belongs_to(task: Task, initial_state: int, key: str = "") -> str:
    """What a file says of itself, so that one in the wrong place is noticed."""
    return f"{task.id}, initial state {initial_state}, {key}"


def read_episode(path: Path, task: Task, initial_state: int, spec: SuiteSpec, key: str = "") -> Arrays:
    """Every array in the file of an episode.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigurationError: It is damaged, another episode's, or larger than any episode of the task.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(path)
    arrays = read_arrays(path, "the recorded episode", AGAIN, _NAMES, most=_most_bytes(task, spec))
    owner = arrays["belongs_to"]
    if owner.shape != () or str(owner) != belongs_to(task, initial_state, key):
        raise _damaged(path, f"it is of {harmless(str(owner), 60)}")
    if arrays["success"].shape != () or arrays["success"].dtype != np.bool_:
        raise _damaged(path, "it does not say whether it succeeded")
    return arrays


def whole_trajectory(
    path: Path, task: Task, initial_state: int, spec: SuiteSpec, arrays: Arrays, images: Mapping[str, NDArray[Any]]
) -> Trajectory:
    """The episode of these arrays, if they are all there and fit the suite and each other.

    Raises:
        ConfigurationError: They do not.
    """
    steps = len(arrays["actions"]) if arrays["actions"].ndim else -1
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "actions": ((steps, spec.action_size), "f"),
        "states": ((steps, spec.state_size), "f"),
        **{f"{IMAGE}{camera}": ((steps, *size, 3), "u") for camera, size in spec.cameras.items()},
    }
    found = {"actions": arrays["actions"], "states": arrays["states"]}
    found |= {f"{IMAGE}{camera}": pictures for camera, pictures in images.items()}
    if not 0 <= steps <= task.max_steps or found.keys() != expected.keys():
        raise _damaged(path, f"it has {steps} of at most {task.max_steps} steps, or other cameras than the suite")
    for name, (shape, kind) in expected.items():
        if found[name].shape != shape or found[name].dtype.kind != kind:
            raise _damaged(path, f"{harmless(name, 40)} should be {shape}, got {harmless(str(found[name].shape), 40)}")
    return Trajectory(task, initial_state, dict(images), found["states"], found["actions"], bool(arrays["success"]))


def unpacked_pictures(path: Path, camera: str, spec: SuiteSpec, arrays: Arrays) -> NDArray[np.uint8]:
    """The pictures of a camera that lie packed behind each other, each bounded by its size.

    Raises:
        ConfigurationError: They are damaged, or of another size than the suite's.
    """
    size = spec.cameras.get(camera)
    content, ends, shape = (arrays.get(f"{kind}/{camera}") for kind in ("image", "ends", "shape"))
    if size is None or content is None or ends is None or shape is None or shape.tolist() != [*size, 3]:
        raise _damaged(path, f"the pictures of {harmless(camera, 60)} are not those of the suite")
    bounds = np.concatenate([[0], ends]) if ends.ndim == 1 and ends.dtype.kind in "iu" else np.empty(0, np.int64)
    if content.ndim != 1 or not len(bounds) or (np.diff(bounds) < 0).any() or bounds[-1] != content.nbytes:
        raise _damaged(path, f"it does not say where the pictures of {harmless(camera, 60)} end")
    pictures = np.empty((len(ends), *size, 3), np.uint8)
    for index, (start, end) in enumerate(itertools.pairwise(bounds)):
        pictures[index] = _unpacked(path, content[start:end].tobytes(), pictures[index].nbytes).reshape(*size, 3)
    return pictures


def remove_damaged(path: Path) -> None:
    """Remove whatever lies in the place of an episode's file, so that it can be written again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _unpacked(path: Path, packed: bytes, size: int) -> NDArray[np.uint8]:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise _damaged(path, "a picture cannot be unpacked") from error
    if len(content) != size or not unpacker.eof:
        raise _damaged(path, "a picture has another size than it says")
    return np.frombuffer(content, np.uint8)


def _most_bytes(task: Task, spec: SuiteSpec) -> int:
    """Most bytes of all arrays of an episode's file, packed or not."""
    pictures = sum(height * width * 3 for height, width in spec.cameras.values())
    step = pictures * _PACKED + _EACH * (1 + len(spec.cameras)) + 8 * (spec.state_size + spec.action_size)
    return MIB + int(task.max_steps * step)


def _damaged(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{short(path)} is damaged ({why}); {AGAIN}")

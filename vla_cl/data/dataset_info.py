"""What ``meta/info.json`` of a LeRobotDataset says, looked at before it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.trust.formats import check_format
from vla_cl.trust.paths import inside
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

SUPPORTED_VERSION = 3
IMAGE_TYPES = ("video", "image")
REMEDY = "copy or download the dataset again"

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

_NUMBERS = ("float", "int", "uint", "bool")
_VECTOR = 65_536  # most numbers in a state or an action
_FRAMES = 10**9


@dataclass(frozen=True)
class CameraFeature:
    """What the metadata say of a camera; its pictures may be otherwise.

    Attributes:
        key: Feature key.
        video: Whether its pictures lie in videos; otherwise in the data files.
        sizes: What (height, width) the declared shape can mean, the likeliest first.
        depth: Whether it is declared to be a map of distances.
    """

    key: str
    video: bool
    sizes: tuple[tuple[int, int], ...]
    depth: bool


def read_info(root: Path) -> dict[str, Any]:
    """``meta/info.json`` with the fields that are used checked.

    Raises:
        ConfigurationError: It is missing, no JSON, of another version, or a field is not what it must be.
    """
    path = inside(root, "meta/info.json", f"the dataset {short(root)}")
    if not path.exists():
        raise ConfigurationError(
            f"no LeRobotDataset at {short(root)}: meta/info.json is missing; record one with `vla-cl collect`, or give "
            "the folder that holds meta/, data/ and videos/"
        )
    info = read_json_object(path, "the dataset's description", REMEDY)
    _require_version(root, info.get("codebase_version"))
    _require_number(root, "fps", info.get("fps"), least=1e-3, most=1e5)
    _require_number(root, "total_frames", info.get("total_frames"), least=0, most=_FRAMES, whole=True)
    if info.get("total_episodes") is not None:
        _require_number(root, "total_episodes", info["total_episodes"], least=0, most=_FRAMES, whole=True)
    if not isinstance(info.get("features"), dict):
        raise ConfigurationError(f"{short(root)}: meta/info.json has no table `features`; {REMEDY}")
    info["features"] = {
        key: feature for key, feature in info["features"].items() if isinstance(feature, dict) and "dtype" in feature
    }
    for key, usual in (("data_path", DATA_PATH), ("video_path", VIDEO_PATH)):
        info[key] = check_format(info.get(key) or usual, f"{key} of the dataset {short(root)}", REMEDY)
    return info


def vector_size(root: Path, key: str, feature: Mapping[str, Any]) -> int:
    """How many numbers a feature has in each frame, as declared.

    Raises:
        ConfigurationError: The shape is no list of sizes, or larger than any robot's.
    """
    shape = feature.get("shape")
    given = list(shape) if isinstance(shape, list | tuple) else [shape]
    sizes = [size for size in given if isinstance(size, int) and not isinstance(size, bool) and size > 0]
    if len(sizes) < len(given):
        raise ConfigurationError(
            f"{short(root)}: the feature {harmless(key, 60)!r} has the shape {shape!r:.40}; expected sizes like [7]"
        )
    size = math.prod(sizes)
    if size > _VECTOR:
        raise ConfigurationError(
            f"{short(root)}: the feature {harmless(key, 60)!r} has {size} numbers a frame, at most {_VECTOR} are read"
        )
    return size


def joint_names(feature: Mapping[str, Any], size: int) -> tuple[str, ...] | None:
    """The names of a feature's numbers, in order; None where they are not told one by one.

    Args:
        feature: Its description in ``meta/info.json``.
        size: How many numbers it has.
    """
    names: Any = feature.get("names")
    if isinstance(names, Mapping):
        lists = [value for value in names.values() if isinstance(value, list)]
        places = {value: key for key, value in names.items() if isinstance(value, int)}
        if len(names) == len(lists) == 1:  # {"motors": [...]}
            names = lists[0]
        elif sorted(places) == list(range(len(names))):  # {"x": 0, "y": 1}
            names = [places[number] for number in range(len(names))]
    right = isinstance(names, list) and len(names) == size and all(isinstance(name, str) for name in names)
    return tuple(names) if right and len(set(names)) == size else None


def unused_vectors(features: Mapping[str, Mapping[str, Any]], used: Collection[str]) -> list[str]:
    """Columns of numbers that were observed, besides those that are used."""
    return [
        key
        for key, feature in features.items()
        if key.startswith("observation.") and key not in used and str(feature["dtype"]).startswith(_NUMBERS)
    ]


def camera_features(root: Path, features: Mapping[str, Mapping[str, Any]]) -> dict[str, CameraFeature]:
    """The features that hold pictures."""
    return {
        key: CameraFeature(key, kind == "video", _sizes(root, key, feature), _is_depth(feature))
        for key, feature in features.items()
        if (kind := str(feature["dtype"]).strip().lower()) in IMAGE_TYPES
    }


def _require_version(root: Path, version: object) -> None:
    found = re.fullmatch(r"v?(\d{1,3})((?:\.\d{1,3}){0,2})", str(version))
    if found and int(found[1]) == SUPPORTED_VERSION:
        return
    shown = harmless(str(version), 20)
    if found and (int(found[1]), found[2]) == (2, ".1"):
        raise ConfigurationError(
            f"the dataset at {short(root)} has format {shown}, not v3.0; convert it: `python -m "
            "lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=local/converted --push-to-hub=false "
            f"--root={short(root, 60)}`"
        )
    older = found is not None and int(found[1]) < SUPPORTED_VERSION
    how = (
        "convert it to v2.1 with an older LeRobot first, then to v3.0"
        if older
        else "it comes from another LeRobot than the installed 0.6.1; get its revision v3.0"
    )
    raise ConfigurationError(f"the dataset at {short(root)} has format {shown}, not v3.0; {how}")


def _require_number(root: Path, key: str, value: object, least: float, most: float, whole: bool = False) -> None:
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right or not least <= float(str(value)) <= most:
        raise ConfigurationError(
            f"{short(root)}: {key} in meta/info.json is {value!r:.40}; expected a number from {least:g} to {most:g}"
        )


def _sizes(root: Path, key: str, feature: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """(height, width) as the names say; without names, as the place of a size that can count channels says."""
    shape = feature.get("shape")
    if not isinstance(shape, list | tuple) or not all(isinstance(size, int) and size > 0 for size in shape):
        return ()
    if len(shape) == 2:
        return ((shape[0], shape[1]),)
    if len(shape) != 3:
        return ()
    last, first = (shape[0], shape[1]), (shape[1], shape[2])
    names = feature.get("names")
    if isinstance(names, list | tuple) and len(names) == 3 and all(isinstance(name, str) for name in names):
        words = [name.strip().lower() for name in names]
        height = [place for place, word in enumerate(words) if word in ("height", "h", "rows")]
        width = [place for place, word in enumerate(words) if word in ("width", "w", "columns")]
        if len(height) == len(width) == 1:
            return ((shape[height[0]], shape[width[0]]),)
    if shape[0] <= 4 < shape[2]:
        return (first, last)
    return (last, first)


def _is_depth(feature: Mapping[str, Any]) -> bool:
    notes = [feature, feature.get("info"), feature.get("video_info")]
    return any(
        isinstance(note, Mapping) and bool(note.get("is_depth_map") or note.get("video.is_depth_map")) for note in notes
    )

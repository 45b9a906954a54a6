"""Where a dataset lies that is given as a folder or as a name on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

HUB_NAME = r"[\w][\w.-]*/[\w][\w.-]*"
REVISIONS = ("v3.0", "main")
"""LeRobot tags a dataset with the version of its format; those that are not tagged are taken as they are."""

_INFO = Path("meta") / "info.json"


def dataset_roots(settings: Sequence[tuple[str, object]]) -> list[Path]:
    """The folders that ``stream.datasets`` and ``data.datasets`` name, those of the hub after all that are here.

    Args:
        settings: Name and value of each setting: a list of folders and hub names, or one of them as text.

    Raises:
        ConfigurationError: A value is of another type, there is no such dataset, or one is named twice.
    """
    locations = [location for name, value in settings for location in _locations(name, value)]
    here = {location: folder for location in locations if (folder := local_root(location)) is not None}
    found: dict[Path, Path] = {}
    for location in locations:
        root = here[location] if location in here else fetched_root(location)
        if (real := root.resolve()) in found:
            raise ConfigurationError(f"the dataset {short(root)} is named twice; name each once")
        found[real] = root
    return list(found.values())


def local_root(location: str) -> Path | None:
    """The folder of a dataset that is here; None for a name on the hub that is not.

    Raises:
        ConfigurationError: It is neither a dataset's folder nor such a name.
    """
    folder = Path(location).expanduser()
    try:
        if (folder / _INFO).is_file():
            return folder
        exists = folder.exists()
        inside = sorted(item.name for item in folder.iterdir() if (item / _INFO).is_file()) if folder.is_dir() else []
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the dataset {short(location)} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    if exists or not re.fullmatch(HUB_NAME, location):
        hint = f"; it holds the datasets {harmless(', '.join(map(repr, inside)), 80)}: name these" if inside else ""
        raise ConfigurationError(
            f"{short(location)!r} is neither a LeRobotDataset folder (no meta/info.json in it) nor a hub name like "
            f"user/name{hint}"
        )
    kept = _home() / location
    return kept if (kept / _INFO).is_file() else None


def fetched_root(location: str) -> Path:
    """Download a dataset from the hub, into LeRobot's cache; first its metadata, which are looked at before the rest.

    Raises:
        ConfigurationError: There is none, it cannot be reached, or it is of another format.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    from vla_cl.data.dataset_folder import DatasetFolder  # pandas and PyAV

    def fetch(revision: str, *parts: str) -> Path:
        return Path(
            snapshot_download(
                location,
                repo_type="dataset",
                revision=revision,
                cache_dir=_home() / "hub",
                allow_patterns=[f"{part}/*" for part in parts],
            )
        )

    try:
        for revision in REVISIONS:
            try:
                root = fetch(revision, "meta")
            except RevisionNotFoundError:
                continue
            if not (root / _INFO).is_file():
                raise ConfigurationError(f"{location!r} on the hub is no LeRobotDataset: it has no meta/info.json")
            DatasetFolder(root)
            return fetch(revision, "meta", "data", "videos", "images")
    except (OSError, HFValidationError) as error:
        raise ConfigurationError(
            f"{location!r} is not a folder here and could not be fetched from the hub ({_first_line(error)}); check "
            "the name and the connection, or copy the dataset and give its folder"
        ) from error
    raise ConfigurationError(f"{location!r} on the hub has neither a tag v3.0 nor a branch main; give another dataset")


def _locations(setting: str, value: object) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    if listed is None:
        return []
    if not isinstance(listed, Sequence) or not all(isinstance(item, str) and item.strip() for item in listed):
        raise ConfigurationError(
            f"{setting} must be a list of folders or hub names, {setting}=[/a/b,user/name]; got "
            f"{harmless(repr(value), 80)}"
        )
    return list(listed)


def _home() -> Path:
    """LeRobot's own folder of datasets, as its ``HF_LEROBOT_HOME`` says."""
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_LEROBOT_HOME") or cache / "lerobot").expanduser()


def _first_line(error: Exception) -> str:
    return harmless(" ".join(str(error).split()), 90)

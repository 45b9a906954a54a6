"""Where a dataset lies that is given as a folder or as a name on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_cl.data.hub import HUB_NAME, HubDataset, datasets_home, fetch_metadata, fetch_whole
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

_INFO = Path("meta") / "info.json"


@dataclass(frozen=True)
class Place:
    """Where a dataset lies.

    Attributes:
        root: Its folder.
        remote: Where the rest of it comes from, if only its metadata are here.
    """

    root: Path
    remote: HubDataset | None = None


def find_datasets(settings: Sequence[tuple[str, object]]) -> list[Place]:
    """The datasets that ``stream.datasets`` and ``data.datasets`` name, those of the hub after all that are here.

    Of what lies on the hub, the metadata are fetched.

    Args:
        settings: Name and value of each setting: a list of folders and hub names, or one of them as text.

    Raises:
        ConfigurationError: A value is of another type, there is no such dataset, or one is named twice.
    """
    locations = [location for name, value in settings for location in _locations(name, value)]
    here = {location: folder for location in locations if (folder := local_root(location)) is not None}
    found: dict[Path, tuple[str, Place]] = {}
    for location in locations:
        place = Place(here[location]) if location in here else _on_the_hub(location)
        before = found.setdefault(place.root.resolve(), (location, place))
        if before[1] is not place:
            raise ConfigurationError(
                f"one dataset is named twice, as {short(before[0], 80)} and as {short(location, 80)}; name each once"
            )
    return [place for _, place in found.values()]


def dataset_roots(settings: Sequence[tuple[str, object]]) -> list[Path]:
    """The folders of these datasets, downloaded where they are not here.

    Args:
        settings: As of `find_datasets`.

    Raises:
        ConfigurationError: As of `find_datasets`, or the download failed.
    """
    return [fetch_whole(place.remote) if place.remote else place.root for place in find_datasets(settings)]


def _on_the_hub(name: str) -> Place:
    dataset = fetch_metadata(name)
    return Place(dataset.root, dataset)


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
    kept = datasets_home() / location
    return kept if (kept / _INFO).is_file() else None


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

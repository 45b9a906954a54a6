"""A run's datasets in places that the user names, compared by content with what the run learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_cl.data.identity import identity
from vla_cl.data.run_data import DATA_FILE, moved_roots, noted_datasets
from vla_cl.trust.text import counted, short
from vla_cl.types import ConfigurationError


def with_data_at(configuration: Mapping[str, Any], folder: Path, places: Sequence[Path]) -> dict[str, Any]:
    """A run's settings with its datasets where the user says that they lie now.

    Args:
        configuration: The run's settings.
        folder: The run's.
        places: Of all its datasets, in the order of the run.

    Raises:
        ConfigurationError: The run noted no datasets or another number of them, or one holds something else.
    """
    before = _identities(folder)
    if len(before) != len(places):
        raise ConfigurationError(
            f"the run {short(folder)} learnt from {counted(len(before), 'dataset')}, --datasets gives "
            f"{len(places)}; give all of them, in the order of the run"
        )
    for number, (expected, place) in enumerate(zip(before, places, strict=True), start=1):
        if not (place / "meta" / "info.json").is_file():
            raise ConfigurationError(f"{short(place)} is no dataset (it has no meta/info.json); correct --datasets")
        if identity(place) != expected:
            raise ConfigurationError(
                f"{short(place)} is not dataset {number} of the run {short(folder)}: its content differs; give all of "
                "them with --datasets, in the order of the run"
            )
    roots = [str(place.absolute()) for place in places]
    part = "stream" if "datasets" in configuration["stream"] else "data"
    settings = {**configuration, part: {**configuration[part], "datasets": roots}}
    if part == "stream" and "data" in settings:
        settings["data"] = {**settings["data"], "datasets": []}
    return settings


def require_in_place(folder: Path) -> None:
    """Refuse to look for datasets that lie no more where the run saw them last.

    Raises:
        ConfigurationError: The message names the first one.
    """
    for number, root in enumerate(moved_roots(folder), start=1):
        if not root.is_dir():
            raise ConfigurationError(
                f"dataset {number} of the run {short(folder, 90)} is not at {short(root, 90)} any more; give the "
                "places of all of them with --datasets A,B, in the order of the run"
            )


def _identities(folder: Path) -> list[str]:
    note = folder / DATA_FILE
    if not note.is_file():
        raise ConfigurationError(
            f"the run {short(folder)} has no {DATA_FILE}, which says what it learnt from; leave --datasets out"
        )
    return [entry["identity"] for entry in noted_datasets(note)]

"""Which datasets a run learns, noted in its folder by their content, so that it continues after they were moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_cl.data.identity import identity
from vla_cl.files import write_json
from vla_cl.storage.manifest import require_seal, run_key, seal
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import counted, short
from vla_cl.types import ConfigurationError

DATA_FILE = "data.json"
"""In a run's folder: the datasets that it learns, by content; where they lay last is only a hint."""


def remember_datasets(folder: Path, roots: Sequence[Path], began: bool) -> None:
    """Note in a run's folder which datasets it learns; where it has begun, make sure that they are still the same.

    Args:
        folder: The run's.
        roots: Its datasets, in the order of the settings.
        began: Whether something has been learnt there already.

    Raises:
        ConfigurationError: A run that has begun learnt other datasets; the message names the first that differs. Or it
            has lost its note; one of a version that wrote none goes on with what is given.
    """
    note = folder / DATA_FILE
    if began and roots and not note.is_file() and run_key(folder) is not None:
        raise ConfigurationError(
            f"{short(note, 100)} is missing, so nothing says which datasets the run has learnt; restore it, or give "
            "output_dir=<a new folder>"
        )
    found = [{"name": root.name, "path": str(root.absolute()), "identity": identity(root)} for root in roots]
    if began and note.is_file():
        _require_same(folder, noted_datasets(note), found)
    if found or note.is_file():
        write_json(note, seal({"format": 1, "datasets": found}))


def require_unchanged(folder: Path, roots: Sequence[Path]) -> None:
    """Refuse datasets that have become others while their run was under way.

    Call it when all of their rows and pictures have been read: what is learnt is then what was looked into before.

    Args:
        folder: The run's.
        roots: Datasets that `remember_datasets` noted; others, which the run records itself, are let pass.

    Raises:
        ConfigurationError: One holds something else than when the run began or went on.
    """
    note = folder / DATA_FILE
    noted = {entry["path"]: entry["identity"] for entry in noted_datasets(note)} if note.is_file() else {}
    for root in dict.fromkeys(roots):
        before = noted.get(str(root.absolute()))
        if before is not None and identity(root) != before:
            raise ConfigurationError(
                f"the dataset {short(root)} was changed while the run was under way, and nothing was learnt of it; put "
                "back what it was and give the same command, or give a new output_dir"
            )


def moved_roots(folder: Path) -> list[Path]:
    """Where the datasets of a run lay when it last began or went on, in the order of its settings; empty if unknown.

    Raises:
        ConfigurationError: The note is damaged.
    """
    note = folder / DATA_FILE
    return [Path(entry["path"]) for entry in noted_datasets(note)] if note.is_file() else []


def with_moved_data(configuration: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run's settings with its datasets where they lay last, instead of where they lay when it began."""
    roots = [str(root) for root in moved_roots(folder)]
    settings = dict(configuration)
    if roots and "datasets" in settings["stream"]:
        settings["stream"] = {**settings["stream"], "datasets": roots}
        roots = []
    if "data" in settings:
        settings["data"] = {**settings["data"], "datasets": roots}
    return settings


def noted_datasets(note: Path) -> list[dict[str, str]]:
    """Name, path and identity of each dataset in a run's note, in the order of its settings.

    Raises:
        ConfigurationError: The note is damaged.
    """
    remedy = "restore the file, or learn again with output_dir=<a new folder>"
    content = read_json_object(note, "the run's note of its datasets", remedy)
    require_seal(content, short(note), remedy)
    entries = content.get("datasets")
    keys = ("name", "path", "identity")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys) for entry in entries
    ):
        raise ConfigurationError(f"{short(note)} does not list datasets with {', '.join(keys)}; {remedy}")
    return entries


def _require_same(folder: Path, before: Sequence[dict[str, str]], now: Sequence[dict[str, str]]) -> None:
    remedy = "give the same data, or output_dir=<a new folder>"
    if len(before) != len(now):
        raise ConfigurationError(
            f"{short(folder, 90)} learnt from {counted(len(before), 'dataset')}, {len(now)} "
            f"{'is' if len(now) == 1 else 'are'} given; {remedy}; a task is added by a new run with warm_start "
            '(docs/data.md, "Add a task later")'
        )
    for number, (old, new) in enumerate(zip(before, now, strict=True), start=1):
        if old["identity"] != new["identity"]:
            moved = any(old["identity"] == other["identity"] for other in now)
            why = "comes in another place" if moved else "holds something else now"
            given = "" if old["path"] == new["path"] else f": {short(new['path'], 60)} is given"
            raise ConfigurationError(
                f"{short(folder, 60)} learnt from dataset {number} at {short(old['path'], 60)}, which "
                f"{why}{given}; {remedy}"
            )

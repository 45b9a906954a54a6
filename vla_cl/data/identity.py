"""Which dataset is it? Told by its content, so that one that was moved or copied is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vla_cl.files import write_json
from vla_cl.names import shortened
from vla_cl.trust.reading import read_json_object
from vla_cl.types import ConfigurationError

DATA_FILE = "data.json"
"""In a run's folder: the datasets that it learns, by content; where they lay last is only for people."""

PARTS = ("meta", "data", "videos", "images")
"""Folders of a LeRobotDataset; other files beside them (a README, a download's notes) are not the dataset."""

WHOLE_BYTES = 64 * 2**20
"""Files up to this size are hashed as a whole."""

PIECE_BYTES = 2**18
PIECES = 64
"""Of a longer file: so many pieces, from its beginning to its end, and its size."""


def dataset_identity(root: Path) -> str:
    """A hash of names, sizes and contents, 64 hexadecimal digits; neither folder nor times matter.

    It says which dataset this is; it is no proof that nothing in a long video was damaged.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    files = [path for part in PARTS for path in (root / part).rglob("*") if path.is_file()]
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        size = path.stat().st_size
        digest.update(f"{name}\0{size}\0{_content(path, size)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def remember_datasets(folder: Path, roots: Sequence[Path], began: bool) -> None:
    """Note in a run's folder which datasets it learns; where it has begun, make sure that they are still the same.

    Args:
        folder: The run's.
        roots: Its datasets, in the order of the settings.
        began: Whether something has been learnt there already.

    Raises:
        ConfigurationError: A run that has begun learnt other datasets; the message names the first that differs.
    """
    note = folder / DATA_FILE
    found = [{"name": root.name, "path": str(root.absolute()), "identity": dataset_identity(root)} for root in roots]
    if began and note.is_file():
        _require_same(folder, _noted(note), found)
    if found or note.is_file():
        write_json(note, {"format": 1, "datasets": found})


def moved_roots(folder: Path) -> list[Path]:
    """Where the datasets of a run lay when it last began or went on, in the order of its settings; empty if unknown.

    Raises:
        ConfigurationError: The note is damaged.
    """
    note = folder / DATA_FILE
    return [Path(entry["path"]) for entry in _noted(note)] if note.is_file() else []


def _noted(note: Path) -> list[dict[str, str]]:
    remedy = "remove the file if the datasets are the same"
    content = read_json_object(note, "the run's note of its datasets", remedy)
    entries = content.get("datasets")
    keys = ("name", "path", "identity")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys) for entry in entries
    ):
        raise ConfigurationError(f"{note} does not list datasets with {', '.join(keys)}; {remedy}")
    return entries


def _require_same(folder: Path, before: Sequence[dict[str, str]], now: Sequence[dict[str, str]]) -> None:
    remedy = "give the same data, or output_dir=<a new folder>"
    if len(before) != len(now):
        raise ConfigurationError(
            f"{shortened(folder)} learnt from {len(before)} datasets, {len(now)} are given; {remedy}"
        )
    for number, (old, new) in enumerate(zip(before, now, strict=True), start=1):
        if old["identity"] != new["identity"]:
            moved = any(old["identity"] == other["identity"] for other in now)
            why = "comes in another place" if moved else "holds something else now"
            raise ConfigurationError(
                f"{shortened(folder, 60)} learnt from dataset {number} at {shortened(old['path'], 60)}, which {why}: "
                f"{shortened(new['path'], 60)} is given; {remedy}"
            )


def _content(path: Path, size: int) -> str:
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        pieces = hashlib.sha256()
        for number in range(PIECES):
            file.seek((size - PIECE_BYTES) * number // (PIECES - 1))
            pieces.update(file.read(PIECE_BYTES))
        return pieces.hexdigest()

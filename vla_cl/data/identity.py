"""What a dataset is, told by its content: the same wherever it lies and whenever it was copied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError

WHOLE = 2**20
"""Bytes up to which a video or picture is read whole."""

WHOLE_TABLE = 2**28
"""Bytes up to which a file of rows is read whole; LeRobot begins a new one at 100 MB."""

SAMPLE = 2**16
"""Bytes that are read at the beginning, in the middle and at the end of a larger file."""

META_BYTES = 2**30
"""Largest file of metadata; those of a million episodes have some hundred megabytes."""

_PIECE = 2**20
_TABLE = ".parquet"
_META = (".json", ".jsonl", ".parquet")
_FOLDERS = ("data", "videos", "images")


def identity(root: Path) -> str:
    """A hash, 64 hexadecimal digits: names and contents of metadata and rows, names, sizes and samples of videos.

    The samples of a video hold its index, so another recording of the same size is another dataset; of a video that was
    damaged or altered in its middle, without its size, the change is not seen.
    Hidden files, and files that are no part of a dataset, do not count.

    Raises:
        ConfigurationError: A file cannot be read, or one of the metadata is larger than `META_BYTES`.
    """
    digest = hashlib.sha256(b"2\0")
    try:
        for path in _files(root):
            name = path.relative_to(root).as_posix()
            if (size := path.stat().st_size) > META_BYTES and name.startswith("meta/"):
                raise ConfigurationError(
                    f"{short(path)} has {size} bytes, and a file of metadata at most {META_BYTES}; move it away"
                )
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            _add(digest, path, 2**63 if name.startswith("meta/") else WHOLE_TABLE if path.suffix == _TABLE else WHOLE)
    except OSError as error:
        raise ConfigurationError(
            f"a file of the dataset {short(root)} cannot be read ({error.strerror}: {short(error.filename or '', 80)})"
        ) from error
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    yield from sorted(path for path in (root / "meta").rglob("*") if path.suffix in _META and _counts(path, root))
    for folder in _FOLDERS:
        yield from sorted(path for path in (root / folder).rglob("*") if _counts(path, root))


def _counts(path: Path, root: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)


def _add(digest: hashlib._Hash, path: Path, most: int) -> None:
    """The whole of a file, or samples of one that has more than ``most`` bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= most:
            while piece := file.read(_PIECE):
                digest.update(piece)
            return
        for start in (0, (size - SAMPLE) // 2, size - SAMPLE):
            file.seek(start)
            digest.update(file.read(SAMPLE))

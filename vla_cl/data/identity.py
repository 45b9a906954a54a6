"""What a dataset is, told by its content: the same wherever it lies and whenever it was copied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError

WHOLE = 2**20
"""Bytes up to which a data or video file is read whole."""

SAMPLE = 2**16
"""Bytes that are read at the beginning, in the middle and at the end of a larger one."""

_META = (".json", ".jsonl", ".parquet")
_FOLDERS = ("data", "videos", "images")


def identity(root: Path) -> str:
    """A hash, 64 hexadecimal digits: names and contents in ``meta/``, names, sizes and samples of all other files.

    The samples hold a parquet file's footer, with the smallest and largest value of its columns, and a video's index.
    Hidden files, and files that are no part of a dataset, do not count.

    Raises:
        ConfigurationError: A file cannot be read.
    """
    digest = hashlib.sha256(b"1\0")
    try:
        for path in _files(root):
            name = path.relative_to(root).as_posix()
            digest.update(f"{name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
            _add(digest, path, whole=name.startswith("meta/"))
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


def _add(digest: hashlib._Hash, path: Path, whole: bool) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if whole or size <= WHOLE:
            while piece := file.read(WHOLE):
                digest.update(piece)
            return
        for start in (0, (size - SAMPLE) // 2, size - SAMPLE):
            file.seek(start)
            digest.update(file.read(SAMPLE))

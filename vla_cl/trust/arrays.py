"""npy and npz of others: no pickle, and sizes are added up before anything is unpacked."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.trust.reading import MIB, require_file
from vla_cl.trust.text import harmless, short, told_as
from vla_cl.types import ConfigurationError

UNPACKED_BYTES = 4096 * MIB
"""Most bytes of all arrays of an archive; an episode of 500 frames with three cameras of 480 pixels has 1 GiB."""

FREE_BYTES = 256 * MIB
"""Up to this size, how well an archive is compressed does not matter."""

RATIO = 200
"""Beyond that, most bytes that one byte of the file may become. Deflate can reach 1000; pictures do not."""

ENTRIES = 10_000
"""Most arrays in an archive."""

_FAILURES = (
    OSError, ValueError, EOFError, KeyError, OverflowError, SyntaxError, RuntimeError, MemoryError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile and NumPy raise for files that are damaged; SyntaxError: a header that is no literal."""

_KINDS = "biufcSU"
_DIMENSIONS = 32
_HEADER = 10_000


def read_arrays(
    path: Path, what: str, remedy: str, names: Sequence[str] = (), most: int = UNPACKED_BYTES
) -> dict[str, NDArray[Any]]:
    """Every array of an npz archive by name.

    Args:
        path: The archive.
        what: What it is to the reader, for the message.
        remedy: What to do if it is damaged.
        names: Arrays that must be there.
        most: Most bytes of all of them together.

    Raises:
        ConfigurationError: As of `vla_cl.trust.reading.require_file`; it is no archive of arrays, an array holds Python
            objects, a checksum is wrong, the arrays are too large, or one is missing.
    """
    size = require_file(path, what, remedy)
    shown = f"{what} at {short(path)}"
    with (
        told_as(f"{shown} is no whole npz archive", remedy, *_FAILURES),
        path.open("rb") as source,
        zipfile.ZipFile(source) as archive,
    ):
        entries = archive.infolist()
        _check_entries(entries, size, most, shown, remedy)
        arrays = {entry.filename.removesuffix(".npy"): _read(archive, entry, shown, remedy) for entry in entries}
    lacking = [name for name in names if name not in arrays]
    if lacking:
        raise ConfigurationError(f"{shown} lacks the array {', '.join(lacking)[:80]}; {remedy}")
    return arrays


def map_array(path: Path, what: str, remedy: str) -> NDArray[Any]:
    """An npy file, read-only and left on the disk until its parts are asked for.

    Raises:
        ConfigurationError: As of `vla_cl.trust.reading.require_file`; it holds Python objects, or has not the size that
            its header says.
    """
    size = require_file(path, what, remedy)
    shown = f"{what} at {short(path)}"
    with told_as(f"{shown} is no npy file", remedy, *_FAILURES):
        with path.open("rb") as file:
            count, dtype = _header(file, shown, remedy)
            if file.tell() + count * dtype.itemsize != size:
                raise ConfigurationError(f"{shown} was cut off or has a wrong header; {remedy}")
        array: NDArray[Any] = np.load(path, mmap_mode="r" if count else None, allow_pickle=False)
    return array


def _check_entries(entries: Sequence[zipfile.ZipInfo], size: int, most: int, shown: str, remedy: str) -> None:
    names = [entry.filename for entry in entries]
    if len(names) > ENTRIES or len(set(names)) < len(names):
        raise ConfigurationError(f"{shown} has {len(names)} entries, or one twice; {remedy}")
    for entry in entries:
        if not entry.filename.endswith(".npy") or "/" in entry.filename or "\\" in entry.filename:
            raise ConfigurationError(f"{shown} holds {harmless(entry.filename, 60)!r}, expected arrays only; {remedy}")
    total = sum(entry.file_size for entry in entries)
    if total > most or (total > FREE_BYTES and total > RATIO * size):
        raise ConfigurationError(
            f"{shown} of {size} bytes would unpack to {total}, more than is read ({most} bytes, {RATIO}-fold); {remedy}"
        )


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, shown: str, remedy: str) -> NDArray[Any]:
    with archive.open(entry) as file:
        count, dtype = _header(file, shown, remedy)
        if file.tell() + count * dtype.itemsize != entry.file_size:
            raise ConfigurationError(
                f"{shown} is damaged: {harmless(entry.filename, 60)!r} has a wrong header; {remedy}"
            )
    with archive.open(entry) as file:
        form: Any = np.lib.format
        array: NDArray[Any] = form.read_array(file, allow_pickle=False)
        file.read(1)  # at the end of an entry its checksum is compared
    return array


def _header(file: IO[bytes], shown: str, remedy: str) -> tuple[int, np.dtype[Any]]:
    """How many values of which type follow."""
    form: Any = np.lib.format  # NumPy leaves it untyped
    version = form.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ConfigurationError(f"{shown} has an array of format {version}, expected 1.0 or 2.0; {remedy}")
    read = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=_HEADER)
    if dtype.kind not in _KINDS or dtype.names is not None:
        raise ConfigurationError(
            f"{shown} has an array of {harmless(str(dtype), 40)}, expected plain numbers or text; {remedy}"
        )
    if len(shape) > _DIMENSIONS or any(size < 0 for size in shape):
        raise ConfigurationError(f"{shown} has an array of shape {harmless(str(shape), 60)}; {remedy}")
    return math.prod(shape), dtype

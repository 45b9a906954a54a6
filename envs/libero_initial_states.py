"""LIBERO's stored initial states, read without unpickling.

Each file is a zip archive (torch's format) around one pickled float64 array. Unpickling can run any code that the file
names, so the pickle is read as data: its opcodes are walked and must be, one by one, those that pickle a NumPy array.
Importing this module imports neither torch nor a simulator.
"""

from __future__ import annotations

import pickletools
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_cl.trust.reading import require_file
from vla_cl.trust.text import short, told_as
from vla_cl.types import ConfigurationError

_ANY_INTEGER = object()
_ANY_TEXT = object()

_LARGEST = 64 * 2**20
"""Most bytes of a file of initial states, packed or not; LIBERO's have at most 200 kB."""

_ADVICE = "reinstall hf-libero, whose states are zip archives around one pickled table"
_INTEGER_OPCODES = ("BININT", "BININT1", "BININT2")
_MEMO_OPCODES = ("BINPUT", "LONG_BINPUT")

_ARRAY_PICKLE: tuple[tuple[str, object], ...] = (
    ("PROTO", 2),
    ("GLOBAL", "numpy.core.multiarray _reconstruct"),
    ("GLOBAL", "numpy ndarray"),
    ("integer", 0),
    ("TUPLE1", None),
    ("GLOBAL", "_codecs encode"),
    ("BINUNICODE", "b"),
    ("BINUNICODE", "latin1"),
    ("TUPLE2", None),
    ("REDUCE", None),
    ("TUPLE3", None),
    ("REDUCE", None),
    ("MARK", None),
    ("integer", 1),
    ("integer", _ANY_INTEGER),  # number of states
    ("integer", _ANY_INTEGER),  # length of a state
    ("TUPLE2", None),
    ("GLOBAL", "numpy dtype"),
    ("BINUNICODE", "f8"),
    ("NEWFALSE", None),
    ("NEWTRUE", None),
    ("TUPLE3", None),
    ("REDUCE", None),
    ("MARK", None),
    ("integer", 3),
    ("BINUNICODE", "<"),
    ("NONE", None),
    ("NONE", None),
    ("NONE", None),
    ("integer", -1),
    ("integer", -1),
    ("integer", 0),
    ("TUPLE", None),
    ("BUILD", None),
    ("NEWFALSE", None),  # rows first in memory
    ("BINGET", 3),  # _codecs.encode again
    ("BINUNICODE", _ANY_TEXT),  # the bytes of the array, as latin-1 text
    ("BINGET", 5),  # "latin1" again
    ("TUPLE2", None),
    ("REDUCE", None),
    ("TUPLE", None),
    ("BUILD", None),
    ("STOP", None),
)
"""What protocol 2 writes for a two-dimensional little-endian float64 array, without the memo's bookkeeping."""


@lru_cache(maxsize=64)
def read_initial_states(path: Path) -> NDArray[np.float64]:
    """Read the stored states of a task.

    Args:
        path: A ``.pruned_init`` or ``.init`` file of LIBERO.

    Returns:
        float64 (states, length), read-only; a row is time, joint positions and joint velocities.

    Raises:
        ConfigurationError: The file is missing or holds anything but one float64 table.
    """
    require_file(path, "the file of initial states", _ADVICE, _LARGEST)
    failures = (OSError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile)
    with (
        told_as(f"the initial states {short(path)} cannot be read", _ADVICE, *failures),
        zipfile.ZipFile(path) as archive,
    ):
        entries = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(entries) != 1:
            raise ConfigurationError(f"{short(path)} holds {len(entries)} entries data.pkl instead of 1; {_ADVICE}")
        size = archive.getinfo(entries[0]).file_size
        if size > _LARGEST:
            raise ConfigurationError(f"{short(path)} would unpack to {size} bytes; {_ADVICE}")
        pickled = archive.read(entries[0])
    return _read_array(pickled, path)


def _read_array(pickled: bytes, path: Path) -> NDArray[np.float64]:
    rows, length, text = _free_arguments(pickled, path)
    if not (isinstance(rows, int) and isinstance(length, int) and isinstance(text, str)):
        raise TypeError("the template leaves two integers and one text free")
    try:
        raw = text.encode("latin1")
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{short(path)}: the array's bytes are not latin-1 text ({error}); {_ADVICE}"
        ) from error
    if rows < 1 or length < 1 or len(raw) != rows * length * 8:
        raise ConfigurationError(f"{short(path)}: {len(raw)} bytes are no {rows} x {length} float64 table; {_ADVICE}")
    states = np.frombuffer(raw, dtype="<f8").reshape(rows, length)
    if not np.isfinite(states).all():
        raise ConfigurationError(f"{short(path)}: a state holds numbers that are not finite; {_ADVICE}")
    return states


def _free_arguments(pickled: bytes, path: Path) -> list[object]:
    """The arguments that the template leaves open, in order; refuses a pickle of any other form."""
    free: list[object] = []
    position = 0
    try:
        for opcode, argument, offset in pickletools.genops(pickled):
            if opcode.name in _MEMO_OPCODES:
                continue
            kind = "integer" if opcode.name in _INTEGER_OPCODES else opcode.name
            expected_kind, expected = _ARRAY_PICKLE[position]
            is_free = expected is _ANY_INTEGER or expected is _ANY_TEXT
            if kind != expected_kind or not (is_free or argument == expected):
                raise ConfigurationError(
                    f"{short(path)}: the pickle has {opcode.name} {str(argument)[:60]!r} at byte {offset} "
                    f"where a float64 table has {expected_kind}; {_ADVICE}"
                )
            if is_free:
                free.append(argument)
            position += 1
    except ValueError as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{short(path)}: broken pickle ({error}); {_ADVICE}") from error
    if position != len(_ARRAY_PICKLE):
        raise ConfigurationError(f"{short(path)}: the pickle ends early; {_ADVICE}")
    return free

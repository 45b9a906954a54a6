"""safetensors of others: the header is checked here, number by number, before the library maps the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.trust.reading import MIB, parse_json_object, require_file
from vla_cl.trust.text import harmless, short, told_as
from vla_cl.types import ConfigurationError

if TYPE_CHECKING:
    import torch

HEADER_BYTES = 100 * MIB
"""Largest header, as in the library; a policy of 20 GB has one of some hundred kilobytes."""

TENSORS = 200_000
"""Most tensors in a file."""

_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_LENGTH = 8
_DIMENSIONS = 16


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header says it; ``start`` and ``stop`` count bytes behind the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path, what: str, remedy: str) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file by name; the whole file is accounted for.

    Raises:
        ConfigurationError: As of `vla_cl.trust.reading.require_file`; or the header is too long, is no JSON, names an
            unknown type, or its offsets overlap, leave gaps, contradict the shapes, or lie outside the file.
    """
    size = require_file(path, what, remedy)
    shown = f"{what} at {short(path)}"
    if size < _LENGTH + 2:
        raise ConfigurationError(f"{shown} is no safetensors file: it has {size} bytes; {remedy}")
    with told_as(f"{shown} cannot be read", remedy, OSError), path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if length > min(HEADER_BYTES, size - _LENGTH):
            raise ConfigurationError(f"{shown} is no whole safetensors file: its header does not fit; {remedy}")
        text = file.read(length)
    content = parse_json_object(text, f"the header of {shown}", remedy)
    notes = content.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ConfigurationError(f"{shown} is damaged: its notes are no text; {remedy}")
    if len(content) > TENSORS:
        raise ConfigurationError(f"{shown} has {len(content)} tensors, more than the {TENSORS} allowed; {remedy}")
    tensors = {name: _entry(name, entry, shown, remedy) for name, entry in content.items()}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            raise ConfigurationError(
                f"{shown} is damaged: tensor {harmless(name, 60)!r} overlaps or leaves a gap; {remedy}"
            )
        end = tensor.stop
    if _LENGTH + length + end != size:
        raise ConfigurationError(
            f"{shown} is damaged: its tensors end at byte {_LENGTH + length + end}, the file at {size}; {remedy}"
        )
    return tensors


def load_tensors(path: Path, what: str, remedy: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ConfigurationError: As of `read_header`, or the library cannot read it.
    """
    read_header(path, what, remedy)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with told_as(
        f"{what} at {short(path)} cannot be read", remedy, SafetensorError, OSError, ValueError, KeyError, RuntimeError
    ):
        return dict(load_file(path))


def require_finite(tensors: Mapping[str, torch.Tensor], what: str, remedy: str) -> None:
    """Refuse numbers that are none.

    Raises:
        ConfigurationError: A tensor holds NaN or Infinity; the message names it.
    """
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(tensor.isfinite().all()):
            raise ConfigurationError(f"{what} holds NaN or Infinity in {harmless(name, 80)!r}; {remedy}")


def _entry(name: str, entry: object, shown: str, remedy: str) -> StoredTensor:
    wrong = ConfigurationError(
        f"{shown} is damaged: the entry of tensor {harmless(name, 60)!r} contradicts itself; {remedy}"
    )
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (_are_counts(shape) and len(shape) <= _DIMENSIONS and _are_counts(offsets) and len(offsets) == 2):
        raise wrong
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise ConfigurationError(
            f"{shown} has tensor {harmless(name, 60)!r} of the unknown type {harmless(str(dtype), 20)!r}; {remedy}"
        )
    if offsets[1] - offsets[0] != math.prod(shape) * _BYTES[dtype]:
        raise wrong
    return StoredTensor(dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**62 for value in values)

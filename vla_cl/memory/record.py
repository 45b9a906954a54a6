"""One remembered unit as bytes: the samples of a batch, whatever their features are.

The first 8 bytes give the length of what follows them: a zlib stream with one line of JSON and, behind it, every array
that is no picture. Chunks of actions of neighbouring frames repeat one another, which zlib notices. Then come the
pictures, in pieces (see `vla_cl.memory.encodings`); a picture that several samples observe is there once.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.memory.decoded_films import FILMS
from vla_cl.memory.encodings import Codec, codec
from vla_cl.trust.media import PIXELS
from vla_cl.trust.reading import parse_json_object, require_file
from vla_cl.trust.text import harmless, short, told_as
from vla_cl.types import METHOD_KEY, Batch, ConfigurationError

NOTE_KEY = "@"
"""How the keys begin that a record keeps beside the batch's own, such as ``@action``, the action of each frame."""

LENGTH_BYTES = 8
"""That a record begins with."""

UNPACKED_BYTES = 2**28
"""Most bytes of what is no picture in a unit; an episode of 10,000 frames with chunks of 100 actions has 50 MB."""

_SAMPLES = 10_000_000
_REMEDY = "copy it again, or use another checkpoint of the run"
_PICTURE_DIMENSIONS = 4


def is_picture(value: object) -> bool:
    """Whether a batch's value holds RGB pictures: uint8, shape (B, ..., 3, H, W)."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype == torch.uint8
        and value.ndim >= _PICTURE_DIMENSIONS
        and value.shape[-3] == 3
    )


def pack(batch: Batch, notes: Mapping[str, NDArray[Any]], with_codec: Codec) -> bytes:
    """A batch as bytes; the methods' own keys are left out.

    Args:
        batch: Of one unit, in time.
        notes: Further arrays of the same first dimension, kept under `NOTE_KEY` and their name.
        with_codec: For the pictures.
    """
    arrays: dict[str, NDArray[Any]] = {f"{NOTE_KEY}{name}": value for name, value in notes.items()}
    texts, pictures, pieces = {}, {}, []
    for key, value in batch.items():
        if key.startswith(METHOD_KEY):
            continue
        if is_picture(value):
            shown = value.numpy()
            flat = shown.reshape(-1, *shown.shape[-3:])
            number, first = _distinct(flat) if shown.ndim > _PICTURE_DIMENSIONS else (None, slice(None))
            own = with_codec.encode(flat[first])
            pictures[key] = {"shape": shown.shape, "sizes": [len(piece) for piece in own], "number": number}
            pieces += own
        elif isinstance(value, torch.Tensor):
            arrays[key] = value.numpy()
        else:
            different = list(dict.fromkeys(value))
            texts[key] = [different, [different.index(text) for text in value] if len(different) > 1 else len(value)]
    about = {
        "codec": with_codec.name,
        "texts": texts,
        "pictures": pictures,
        "arrays": {key: [value.dtype.str, value.shape] for key, value in arrays.items()},
    }
    header = json.dumps(about, separators=(",", ":")).encode() + b"\n"
    small = zlib.compress(header + b"".join(np.ascontiguousarray(value).tobytes() for value in arrays.values()), 6)
    return len(small).to_bytes(LENGTH_BYTES, "little") + small + b"".join(pieces)


@dataclass(frozen=True)
class Record:
    """A unit in a file; the pictures stay there until they are asked for.

    Attributes:
        path: The file.
        arrays: What is no picture, first dimension the samples.
        texts: Lists of one text per sample.
        pictures: What the header says of each picture feature, and where its pieces begin.
    """

    path: Path
    arrays: Mapping[str, NDArray[Any]]
    texts: Mapping[str, list[str]]
    pictures: Mapping[str, _PictureFeature]

    @classmethod
    def open(cls, path: Path) -> Record:
        """Read all but the pictures.

        Raises:
            ConfigurationError: The file is damaged, or would unpack to more than a unit ever is.
        """
        size = require_file(path, "the remembered unit", _REMEDY)
        failures = (zlib.error, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError)
        with told_as(f"the remembered unit {short(path)} is damaged", _REMEDY, *failures):
            with path.open("rb") as file:
                length = int.from_bytes(file.read(LENGTH_BYTES), "little")
                if length > size - LENGTH_BYTES:
                    raise ValueError(f"its first part of {length} bytes does not fit into {size}")
                header, _, content = _inflated(file.read(length)).partition(b"\n")
            about = parse_json_object(header, f"the header of {short(path)}", _REMEDY)
            arrays = _arrays(about["arrays"], content)
            pictures = _picture_features(about, LENGTH_BYTES + length, size)
            texts = _texts(about["texts"])
            lengths = {len(array) for array in arrays.values()} | {len(listed) for listed in texts.values()}
            if len(lengths | {feature.shape[0] for feature in pictures.values()}) > 1:
                raise ValueError("its parts are of different lengths")
            return cls(path, arrays, texts, pictures)

    def array(self, name: str) -> NDArray[Any]:
        """What is no picture, by name.

        Raises:
            ConfigurationError: It is not there.
        """
        if name not in self.arrays:
            raise ConfigurationError(f"the remembered unit {short(self.path)} lacks {name!r}; {_REMEDY}")
        return self.arrays[name]

    def read(self, places: NDArray[np.int64]) -> Batch:
        """The samples at these places of the unit, in this order, without what stands under `NOTE_KEY`."""
        batch: Batch = {key: torch.from_numpy(self._pictures(key, places)) for key in self.pictures}
        for key, value in self.arrays.items():
            if not key.startswith(NOTE_KEY):
                batch[key] = torch.from_numpy(value[places])
        for key, texts in self.texts.items():
            batch[key] = [texts[place] for place in places.tolist()]
        return batch

    def _pictures(self, key: str, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        feature = self.pictures[key]
        per_sample = feature.shape[1:-3]
        count = int(np.prod(per_sample))
        wanted: NDArray[np.int64] = (places[:, None] * count + np.arange(count)).reshape(-1)
        wanted = wanted if feature.number is None else feature.number[wanted]
        decoder = codec(feature.codec)
        if decoder.piecewise:
            unique, back = np.unique(wanted, return_inverse=True)
            found = self._decoded(feature, decoder, unique.tolist())[back]
        else:
            film = FILMS.get(self.path, key, lambda: self._decoded(feature, decoder, [0]))
            if wanted.max(initial=-1) >= len(film):
                raise ConfigurationError(f"{short(self.path)} is damaged: a film has {len(film)} pictures; {_REMEDY}")
            found = film[wanted]
        return found.reshape(len(places), *per_sample, *feature.shape[-3:])

    def _decoded(self, feature: _PictureFeature, decoder: Codec, numbers: Sequence[int]) -> NDArray[np.uint8]:
        failures = (OSError, ValueError, IndexError)
        with told_as(f"the pictures of the remembered unit {short(self.path)} are damaged", _REMEDY, *failures):
            return decoder.decode(self._pieces(feature, numbers), feature.shape[-3:])

    def _pieces(self, feature: _PictureFeature, numbers: Sequence[int]) -> list[bytes]:
        with self.path.open("rb") as file:
            return [_piece(file, feature.bounds, number) for number in numbers]


@dataclass(frozen=True)
class _PictureFeature:
    codec: str
    shape: tuple[int, ...]  # of the whole unit, (samples, ..., 3, H, W)
    number: NDArray[np.int64] | None  # which distinct picture each one is; None: each its own
    bounds: NDArray[np.int64]  # where the pieces begin and end in the file


def _inflated(packed: bytes) -> bytes:
    """What a zlib stream holds, if that is no more than a unit ever has."""
    stream = zlib.decompressobj()
    content = stream.decompress(packed, UNPACKED_BYTES)
    if stream.unconsumed_tail or not stream.eof:
        raise ValueError("its first part was cut off, or unpacks to too much")
    return content


def _arrays(about: Mapping[str, Any], content: bytes) -> dict[str, NDArray[Any]]:
    arrays, start = {}, 0
    for key, (dtype, shape) in about.items():
        if np.dtype(dtype).kind not in "biuf" or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"array {harmless(key, 40)} is of type {harmless(str(dtype), 20)} and shape {shape}")
        count = math.prod(shape)
        arrays[key] = np.frombuffer(content, dtype, count, start).reshape(shape).copy()
        start += arrays[key].nbytes
    if start != len(content):
        raise ValueError(f"its arrays have {start} bytes, its header says {len(content)}")
    return arrays


def _picture_features(about: Mapping[str, Any], begin: int, size: int) -> dict[str, _PictureFeature]:
    """Where the pieces of each picture feature lie; all of them lie in the file."""
    found = {}
    for key, item in about["pictures"].items():
        shape, sizes = tuple(item["shape"]), item["sizes"]
        whole = [*shape, *sizes]
        if len(shape) < _PICTURE_DIMENSIONS or shape[-3] != 3 or not all(type(n) is int and n >= 0 for n in whole):
            raise ValueError(f"pictures {harmless(key, 40)} have the shape {shape}")
        count = math.prod(shape[:-3])
        if shape[-2] * shape[-1] > PIXELS or count > _SAMPLES or begin + sum(sizes) > size:
            raise ValueError(f"pictures {harmless(key, 40)} of shape {shape} do not fit into {size} bytes")
        number = None if item["number"] is None else np.asarray(item["number"], dtype=np.int64)
        if number is not None and (number.shape != (count,) or number.min(initial=0) < 0):
            raise ValueError(f"pictures {harmless(key, 40)} are numbered {len(number)}-fold, expected {count}")
        bounds = begin + np.cumsum([0, *sizes])
        found[key] = _PictureFeature(str(about["codec"]), shape, number, bounds)
        begin = int(bounds[-1])
    return found


def _texts(about: Mapping[str, Any]) -> dict[str, list[str]]:
    texts = {}
    for key, (different, numbers) in about.items():
        count = len(numbers) if isinstance(numbers, list) else numbers
        if type(count) is not int or not 0 <= count <= _SAMPLES or not all(isinstance(text, str) for text in different):
            raise ValueError(f"texts {harmless(key, 40)} are no texts")
        texts[key] = [different[n] for n in numbers] if isinstance(numbers, list) else different * numbers
    return texts


def _piece(file: Any, bounds: NDArray[np.int64], number: int) -> bytes:  # noqa: ANN401 - any binary file
    file.seek(int(bounds[number]))
    content: bytes = file.read(int(bounds[number + 1] - bounds[number]))
    return content


def _distinct(pictures: NDArray[np.uint8]) -> tuple[list[int], NDArray[np.int64]]:
    """The number of each picture among the distinct ones, in order of first appearance, and where each appears."""
    seen: dict[bytes, int] = {}
    first, number = [], []
    for place, picture in enumerate(pictures):
        content = picture.tobytes()
        if content not in seen:
            seen[content] = len(seen)
            first.append(place)
        number.append(seen[content])
    return number, np.asarray(first)

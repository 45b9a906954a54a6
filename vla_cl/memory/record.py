"""One remembered unit as bytes: the samples of a batch, whatever their features are.

The first 8 bytes give the length of what follows them: a zlib stream with one line of JSON and, behind it, every array
that is no picture. Chunks of actions of neighbouring frames repeat one another, which zlib notices. Then come the
pictures, in pieces (see `vla_cl.memory.encodings`); a picture that several samples observe is there once.
"""

from __future__ import annotations

import json
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
from vla_cl.types import METHOD_KEY, Batch

NOTE_KEY = "@"
"""How the keys begin that a record keeps beside the batch's own, such as ``@action``, the action of each frame."""

_LENGTH_BYTES = 8
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
    return len(small).to_bytes(_LENGTH_BYTES, "little") + small + b"".join(pieces)


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
        """Read all but the pictures."""
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header, _, content = zlib.decompress(file.read(length)).partition(b"\n")
        about = json.loads(header)
        arrays, start = {}, 0
        for key, (dtype, shape) in about["arrays"].items():
            count = int(np.prod(shape))
            arrays[key] = np.frombuffer(content, dtype, count, start).reshape(shape).copy()
            start += arrays[key].nbytes
        pictures, begin = {}, _LENGTH_BYTES + length
        for key, item in about["pictures"].items():
            bounds = begin + np.cumsum([0, *item["sizes"]])
            number = None if item["number"] is None else np.asarray(item["number"])
            pictures[key] = _PictureFeature(about["codec"], tuple(item["shape"]), number, bounds)
            begin = int(bounds[-1])
        texts = {
            key: [different[n] for n in numbers] if isinstance(numbers, list) else different * numbers
            for key, (different, numbers) in about["texts"].items()
        }
        return cls(path, arrays, texts, pictures)

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
            found = decoder.decode(self._pieces(feature, unique.tolist()), feature.shape[-3:])[back]
        else:
            film = FILMS.get(self.path, key, lambda: decoder.decode(self._pieces(feature, [0]), feature.shape[-3:]))
            found = film[wanted]
        return found.reshape(len(places), *per_sample, *feature.shape[-3:])

    def _pieces(self, feature: _PictureFeature, numbers: Sequence[int]) -> list[bytes]:
        with self.path.open("rb") as file:
            return [_piece(file, feature.bounds, number) for number in numbers]


@dataclass(frozen=True)
class _PictureFeature:
    codec: str
    shape: tuple[int, ...]  # of the whole unit, (samples, ..., 3, H, W)
    number: NDArray[np.int64] | None  # which distinct picture each one is; None: each its own
    bounds: NDArray[np.int64]  # where the pieces begin and end in the file


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

"""Films stay decoded as long as there is room: one picture of a film cannot be had without decoding those before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LIMIT = 256 * 2**20
"""Bytes of decoded pictures in this process; 5,000 pictures of 128 pixels."""

_Key = tuple[str, str, int, int]


class DecodedFilms:
    """Decoded films, the least recently used ones go first. What is read does not depend on what is held.

    Args:
        limit: Bytes; a film that is larger is not held at all.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._films: OrderedDict[_Key, NDArray[np.uint8]] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Of what is held."""
        return sum(film.nbytes for film in self._films.values())

    def get(self, path: Path, feature: str, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The pictures of a feature of a file, read only; a file that has been replaced is decoded again."""
        stat = path.stat()
        key = (str(path), feature, stat.st_ino, stat.st_mtime_ns)
        if key in self._films:
            self._films.move_to_end(key)
            return self._films[key]
        film = decode()
        film.flags.writeable = False
        self._films[key] = film
        held = self.bytes
        while held > self.limit:
            held -= self._films.popitem(last=False)[1].nbytes
        return film


FILMS = DecodedFilms()
"""Of this process."""

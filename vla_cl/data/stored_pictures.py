"""Pictures that lie in the data files of a dataset, as PNG or JPEG, or in files that those name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.data.dataset_info import REMEDY
from vla_cl.data.dataset_rows import RowTable, open_data_file
from vla_cl.data.picture_source import Picture, PictureSource
from vla_cl.trust.media import open_picture
from vla_cl.trust.paths import inside
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

_AT_ONCE = 64
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class StoredCamera(PictureSource):
    """A camera whose pictures lie in the data files.

    Args:
        root: The dataset.
        key: The camera's feature key, the name of the column.
        rows: The dataset's.
    """

    def __init__(self, root: Path, key: str, rows: RowTable) -> None:
        self._root, self._key, self._rows = root, key, rows
        self._row_at = np.empty(len(rows), dtype=np.int64)  # place in the data files -> row
        self._row_at[rows.position] = np.arange(len(rows))

    def first_look(self) -> tuple[tuple[int, int], str | None]:
        """As of `PictureSource`."""
        from PIL import ImageOps

        entry = self._entry(0)
        with open_picture(self._content(entry, 0), self._what(0), REMEDY) as picture:
            deep = picture.mode in _DEEP_MODES
            why = f"its pictures are of Pillow's mode {picture.mode}, one deep channel as for distances"
            turned = ImageOps.exif_transpose(picture)
            return (turned.height, turned.width), why if deep else None

    def pictures(self) -> Iterator[tuple[int, Picture]]:
        """As of `PictureSource`."""
        place = 0
        for path in self._rows.files:
            for entry in self._entries(path, _AT_ONCE):
                row = int(self._row_at[place])
                yield row, self._decoded(entry, row)
                place += 1

    def picture(self, row: int) -> Picture:
        """As of `PictureSource`."""
        return self._decoded(self._entry(row), row)

    def end_rows(self) -> list[tuple[int, int]]:
        """As of `PictureSource`."""
        starts = [0, *self._rows.file_ends[:-1].tolist()]
        ends = self._rows.file_ends.tolist()
        return [
            (int(self._row_at[start]), int(self._row_at[end - 1]))
            for start, end in zip(starts, ends, strict=True)
            if end > start
        ]

    def require_files(self) -> None:
        """As of `PictureSource`: every row has a place in its file, so only the column can be missing."""
        for path in self._rows.files:
            with open_data_file(path, [self._key]):
                pass

    def _entry(self, row: int) -> Any:  # noqa: ANN401 - what the column holds
        """The cell of a row; only its own row group is read."""
        place = int(self._rows.position[row])
        number = int(np.searchsorted(self._rows.file_ends, place, side="right"))
        within = place - (int(self._rows.file_ends[number - 1]) if number else 0)
        with open_data_file(self._rows.files[number], [self._key]) as file:
            for group in range(file.file.num_row_groups):
                rows = file.file.metadata.row_group(group).num_rows
                if within < rows:
                    for piece in file.file.iter_batches(_AT_ONCE, row_groups=[group], columns=[self._key]):
                        if within < len(piece):
                            return piece.column(0)[within].as_py()
                        within -= len(piece)
                within -= rows
        raise ConfigurationError(f"{self._what(row)} is not in its file; {REMEDY}")

    def _entries(self, path: Path, at_once: int) -> Iterator[Any]:
        with open_data_file(path, [self._key]) as file:
            for piece in file.file.iter_batches(at_once, columns=[self._key], use_threads=False):
                yield from (cell.as_py() for cell in piece.column(0))

    def _decoded(self, entry: Any, row: int) -> Picture:  # noqa: ANN401 - what the column holds
        from PIL import ImageOps

        with open_picture(self._content(entry, row), self._what(row), REMEDY) as picture:
            if picture.mode in _DEEP_MODES:
                raise ConfigurationError(
                    f"{self._what(row)} has Pillow's mode {picture.mode}, one deep channel, unlike the first; {REMEDY}"
                )
            # Hugging Face's reader turns a photograph upright as its notes say, and so LeRobot does.
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))

    def _content(self, entry: Any, row: int) -> bytes | Path:  # noqa: ANN401 - what the column holds
        cell = {"bytes": entry} if isinstance(entry, bytes) else {"path": entry} if isinstance(entry, str) else entry
        if isinstance(cell, dict):
            content, path = cell.get("bytes"), cell.get("path")
            if isinstance(content, bytes) and content:
                return content
            if isinstance(path, str) and path:
                return inside(self._root, path, f"{self._what(row)}, in its column `path`,")
        raise ConfigurationError(
            f"{self._what(row)} is {type(entry).__name__}, expected the bytes of a picture or its path; {REMEDY}"
        )

    def _what(self, row: int) -> str:
        name = harmless(self._key, 50)
        return f"{short(self._root, 80)}: the picture of {self._rows.place(row)}, camera {name!r},"

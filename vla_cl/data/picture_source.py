"""One camera of a dataset: where the picture of each row comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


class PictureSource(ABC):
    """A camera of a dataset. Rows are numbered in the order of the global frame index.

    What cannot be read, or does not belong to the row, raises a `vla_cl.types.ConfigurationError` that names the
    dataset, the episode, the frame and the camera.
    """

    @abstractmethod
    def first_look(self) -> tuple[tuple[int, int], str | None]:
        """(height, width) of the first picture; and why it is no picture in colour or grey, None if it is one."""

    @abstractmethod
    def pictures(self) -> Iterator[tuple[int, Picture]]:
        """Every row with its picture, uint8 (H, W, 3), each file decoded once; rows come in the order of the files."""

    @abstractmethod
    def picture(self, row: int) -> Picture:
        """The picture of one row, uint8 (H, W, 3)."""

    @abstractmethod
    def end_rows(self) -> list[tuple[int, int]]:
        """The first and the last row of every file that holds pictures."""

    @abstractmethod
    def require_files(self) -> None:
        """Refuse files that are missing, empty, Git LFS pointers, or hold fewer pictures than rows; decodes nothing."""

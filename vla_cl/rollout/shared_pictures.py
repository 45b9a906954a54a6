"""Pictures travel from worker to parent through shared memory; only numbers go through the pipe.

The memory has no name: it vanishes with the last process that holds it, however that one ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.types import SuiteSpec


class SharedPictures:
    """One picture of each camera for each slot of a worker.

    Whoever holds the slot's turn owns its pictures: the worker writes before it says that a decision is due, the parent
    reads until it sends the next command. Pickled while a process is started, it gives that process the same memory.
    """

    _pictures: dict[str, NDArray[np.uint8]]

    def __init__(self, spec: SuiteSpec, slots: int) -> None:
        """Make the memory.

        Args:
            spec: Its cameras say how large the pictures are.
            slots: Episodes that a worker runs at the same time.

        Raises:
            OSError: There is no memory left.
        """
        descriptor = _nameless_file()
        try:
            os.ftruncate(descriptor, max(1, slots * _bytes_of_slot(spec)))
            self._open(spec, slots, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def write(self, slot: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Put a slot's pictures, uint8 (H, W, 3) each, where the parent reads them.

        Raises:
            ValueError: A camera or a size is not what the suite's spec says.
        """
        shapes = {camera: image.shape for camera, image in images.items()}
        expected = {camera: (*size, 3) for camera, size in self._spec.cameras.items()}
        if shapes != expected:
            raise ValueError(f"the suite's spec promises pictures {expected}, the environment gave {shapes}")
        for camera, image in images.items():
            self._pictures[camera][slot] = image

    def read(self, slot: int) -> dict[str, NDArray[np.uint8]]:
        """A slot's pictures: views, good until the slot's next command is sent."""
        return {camera: pictures[slot] for camera, pictures in self._pictures.items()}

    def close(self) -> None:
        """Let go of the memory; it is freed with the last picture that somebody still looks at."""
        self._pictures = {}
        os.close(self._descriptor)

    def _open(self, spec: SuiteSpec, slots: int, descriptor: int) -> None:
        self._spec, self._slots, self._descriptor = spec, slots, descriptor
        memory = mmap.mmap(descriptor, max(1, slots * _bytes_of_slot(spec)))
        self._pictures = {}
        offset = 0
        for camera, (height, width) in spec.cameras.items():
            shape = (slots, height, width, 3)
            self._pictures[camera] = np.ndarray(shape, dtype=np.uint8, buffer=memory, offset=offset)
            offset += self._pictures[camera].nbytes

    def __getstate__(self) -> tuple[Any, ...]:
        return self._spec, self._slots, DupFd(self._descriptor)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        spec, slots, duplicate = state
        self._open(spec, slots, duplicate.detach())


def _bytes_of_slot(spec: SuiteSpec) -> int:
    return sum(height * width * 3 for height, width in spec.cameras.values())


def _nameless_file() -> int:
    """A descriptor of memory that no path leads to."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vla-cl-pictures")
    with tempfile.TemporaryFile() as file:  # unlinked at once; systems without memfd
        return os.dup(file.fileno())

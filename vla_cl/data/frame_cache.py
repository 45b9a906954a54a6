"""Decoded pictures on disk: each frame is decoded once per machine, and checked when it is used.

An entry is one file, named by what it holds: pictures behind each other, then the manifest with a checksum for each
block of about a mebibyte, then a seal over the manifest. It is written beside its name, flushed and renamed, by one
process at a time. A block is compared with its checksum when it is first touched, so opening costs nothing. An entry
that is missing, cut or changed is decoded anew, also in the middle of a run, and a line says so.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import PIL
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.files import remove_leftovers, replacing
from vla_cl.storage.locks import only_writer
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError

FORMAT = 3
BLOCK_BYTES = 2**20

_SEAL = struct.Struct("<8s16s")
_NAME = b"vlaframe"


@dataclass(frozen=True)
class _Layout:
    """Where what lies in an entry.

    Attributes:
        key: What the entry holds; part of its name and of what is sealed.
        shape: (frames, 3, H, W).
    """

    key: str
    shape: tuple[int, int, int, int]

    @property
    def frame_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * self.shape[3]

    @property
    def picture_bytes(self) -> int:
        """Of the pictures."""
        return self.shape[0] * self.frame_bytes

    @property
    def frames_per_block(self) -> int:
        return max(1, BLOCK_BYTES // self.frame_bytes)

    @property
    def blocks(self) -> int:
        return -(-self.shape[0] // self.frames_per_block)

    @property
    def whole_bytes(self) -> int:
        """Of the file: pictures, manifest and seal."""
        return self.picture_bytes + 8 * self.blocks + _SEAL.size

    def extent(self, block: int) -> tuple[int, int]:
        """First byte and number of bytes of a block."""
        start = block * self.frames_per_block * self.frame_bytes
        return start, min(self.picture_bytes - start, self.frames_per_block * self.frame_bytes)

    def seal(self, sums: bytes) -> bytes:
        """What follows the checksums: it fits this layout and these checksums only."""
        about = json.dumps([FORMAT, self.key, self.shape]).encode()
        return _SEAL.pack(_NAME, xxhash.xxh3_128_digest(about + sums))


@dataclass(frozen=True)
class _Entry:
    """An entry that is open.

    Attributes:
        file: Device and number of the file, which tell it from one put in its place.
        map: Its pictures.
        pictures: The same as an array.
        sums: A checksum for each block, uint64.
        checked: Which blocks were compared with theirs.
    """

    file: tuple[int, int]
    map: mmap.mmap
    pictures: NDArray[np.uint8]
    sums: NDArray[np.uint64]
    checked: NDArray[np.bool_]


class Pictures:
    """Every picture of a camera, read from the cache; decoded when they are not there.

    Args:
        folder: The dataset.
        camera: Feature key, as the dataset calls it.
        cache: The folder of entries, shared by all runs on this machine.

    Raises:
        ConfigurationError: The pictures cannot be decoded, or there is no room for them.
        OSError: The folder cannot be written, or the disk is full; nothing is left behind.
    """

    def __init__(self, folder: DatasetFolder, camera: str, cache: Path) -> None:
        self._folder, self._camera = folder, camera
        height, width = folder.cameras[camera]
        self._layout = _Layout(_key(folder, camera), (len(folder.rows), 3, height, width))
        self._path = cache / f"{self._layout.key}.frames"
        self._all_checked = False
        found = _open(self._path, self._layout)
        self._entry = found if isinstance(found, _Entry) else self._made(found, None)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pictures of these rows, uint8 (len(rows), 3, H, W).

        Raises:
            ConfigurationError: The entry was damaged and cannot be decoded anew.
            OSError: As of the class.
        """
        # A map whose file was cut must not be touched: that would be a bus error, which ends the process.
        if not self._all_checked or self._entry.map.size() < self._layout.picture_bytes:
            self._check(np.unique(rows // self._layout.frames_per_block))
        return self._entry.pictures[rows]

    def _check(self, blocks: NDArray[np.int64]) -> None:
        self._check_blocks(blocks)
        self._all_checked = bool(self._entry.checked.all())

    def _check_blocks(self, blocks: NDArray[np.int64]) -> None:
        why = self._damage(blocks)
        if why is None:
            return
        self._entry = self._made(why, self._entry)
        why = self._damage(blocks)
        if why is not None:
            raise ConfigurationError(
                f"{short(self._path)} {why}, just after it was written: the disk of the cache is not sound; set "
                "cache_dir to another one"
            )

    def _damage(self, blocks: NDArray[np.int64]) -> str | None:
        """What is wrong with the blocks that were not checked yet. The file is read, not the map."""
        try:
            with _named(self._path), self._path.open("rb") as file:
                if _identity(file.fileno()) != self._entry.file:
                    found = _open(self._path, self._layout)  # another process has made it anew
                    if isinstance(found, str):
                        return found
                    self._entry = found
                entry = self._entry
                for block in blocks[~entry.checked[blocks]].tolist():
                    start, size = self._layout.extent(block)
                    if _sum(os.pread(file.fileno(), size, start)) != entry.sums[block]:
                        return f"is damaged in frame {block * self._layout.frames_per_block} or one after it"
                    entry.checked[block] = True
        except FileNotFoundError:
            return "was removed"
        return "was cut short" if self._entry.map.size() < self._layout.picture_bytes else None

    def _made(self, why: str, damaged: _Entry | None) -> _Entry:
        """Decode the camera into a new entry. One process does; others wait and find it done."""
        if why != _MISSING:
            print(f"the decoded pictures {self._path} {why}: they are decoded anew", file=sys.stderr, flush=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(self._path.with_suffix(".lock"), f"decoded pictures {self._path}", wait=-1):
            remove_leftovers(self._path.parent)
            found = _open(self._path, self._layout)
            if isinstance(found, _Entry) and (damaged is None or found.file != damaged.file):
                return found
            del found
            with replacing(self._path) as temporary:
                self._decode_into(temporary)
        made = _open(self._path, self._layout)
        if isinstance(made, str):
            raise ConfigurationError(f"{short(self._path)} {made}, just after it was written; set another cache_dir")
        return made

    def _decode_into(self, path: Path) -> None:
        layout = self._layout
        _require_room(self._folder, path.parent, layout.whole_bytes)
        path.touch()
        with _named(path.parent), path.open("r+b") as file:
            handle = file.fileno()
            _reserve(handle, layout.whole_bytes)
            writer = _Writer(handle, layout)
            label = f"decoding {self._folder.root.name}"
            images = self._folder.images(self._camera)
            for row, picture in tqdm(images, total=layout.shape[0], desc=label, leave=False, unit="frame"):
                writer.put(row, picture)
            sums = writer.sums()
            if sums is None:
                raise ConfigurationError(f"not every row of {short(self._folder.root)} got its picture; copy it again")
            _write_at(handle, sums + layout.seal(sums), layout.picture_bytes)


_MISSING = "is missing"


def missing_bytes(folder: DatasetFolder, camera: str, cache: Path) -> int:
    """What decoding a camera will take on the cache's disk; 0 where an entry of the right size lies there already."""
    layout = _Layout(_key(folder, camera), (len(folder.rows), 3, *folder.cameras[camera]))
    path = cache / f"{layout.key}.frames"
    return 0 if path.is_file() and path.stat().st_size == layout.whole_bytes else layout.whole_bytes


def _open(path: Path, layout: _Layout) -> _Entry | str:
    """Map an entry; or, in words, why it cannot be used."""
    try:
        with _named(path), path.open("rb") as file:
            handle = file.fileno()
            if os.fstat(handle).st_size != layout.whole_bytes:
                return "has another size than its pictures"
            sums = os.pread(handle, 8 * layout.blocks, layout.picture_bytes)
            if os.pread(handle, _SEAL.size, layout.picture_bytes + len(sums)) != layout.seal(sums):
                return "has a damaged manifest"
            mapped = mmap.mmap(handle, layout.picture_bytes, access=mmap.ACCESS_READ)
            identity = _identity(handle)
    except FileNotFoundError:
        return _MISSING
    pictures = np.frombuffer(mapped, np.uint8).reshape(layout.shape)
    return _Entry(identity, mapped, pictures, np.frombuffer(sums, "<u8"), np.zeros(layout.blocks, dtype=bool))


class _Writer:
    """Puts pictures in their places and takes the checksum of each block that is whole.

    A block whose pictures come one after another is put together in memory and written at once; otherwise they go to
    the file, and the block is read back.
    """

    def __init__(self, handle: int, layout: _Layout) -> None:
        self._handle, self._layout = handle, layout
        self._left = np.full(layout.blocks, layout.frames_per_block)
        self._left[-1] = layout.shape[0] - (layout.blocks - 1) * layout.frames_per_block
        self._sums = np.zeros(layout.blocks, dtype="<u8")
        self._block = np.empty((layout.frames_per_block, *layout.shape[1:]), dtype=np.uint8)
        self._held = np.zeros(layout.frames_per_block, dtype=bool)
        self._number = 0  # of the block that is being put together

    def put(self, row: int, picture: NDArray[np.uint8]) -> None:
        """A picture, uint8 (H, W, 3), each row once."""
        number, place = divmod(row, self._layout.frames_per_block)
        if number != self._number:
            self._write_held()
            self._number = number
        self._block[place] = picture.transpose(2, 0, 1)
        self._held[place] = True
        self._left[number] -= 1
        if not self._left[number]:
            self._finish()

    def sums(self) -> bytes | None:
        """The checksums; None if rows are missing."""
        return None if self._left.any() else self._sums.tobytes()

    def _finish(self) -> None:
        start, size = self._layout.extent(self._number)
        frames = size // self._layout.frame_bytes
        if self._held[:frames].all():
            content = memoryview(self._block[:frames].reshape(-1))
            _write_at(self._handle, content, start)
            self._held[:] = False
        else:
            self._write_held()
            content = memoryview(os.pread(self._handle, size, start))
        self._sums[self._number] = _sum(content)

    def _write_held(self) -> None:
        start, _ = self._layout.extent(self._number)
        for place in np.flatnonzero(self._held).tolist():
            content = memoryview(self._block[place].reshape(-1))
            _write_at(self._handle, content, start + place * self._layout.frame_bytes)
        self._held[:] = False


def _sum(content: bytes | memoryview) -> int:
    return xxhash.xxh3_64_intdigest(content)


def _write_at(handle: int, content: bytes | memoryview, start: int) -> None:
    view = memoryview(content)
    while len(view):  # a nearly full disk may take a part only, and refuse the rest
        written = os.pwrite(handle, view, start)
        view, start = view[written:], start + written


def _require_room(folder: DatasetFolder, cache: Path, needed: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise ConfigurationError(
            f"decoding {short(folder.root)} needs {needed / 2**30:.1f} GiB in {short(cache)}, which has "
            f"{free / 2**30:.1f} GiB free; free some, or set cache_dir to another disk"
        )


def _reserve(handle: int, size: int) -> None:
    """Take the room on the disk now, not in the middle; a filesystem that cannot do that refuses single writes later.

    Raises:
        OSError: There is no room.
    """
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _identity(handle: int) -> tuple[int, int]:
    about = os.fstat(handle)
    return about.st_dev, about.st_ino


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of a handle get the name of its file, for the message."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def _key(folder: DatasetFolder, camera: str) -> str:
    """What an entry holds: the dataset's content, the camera, and what decodes it."""
    libraries = {name: list(version) for name, version in sorted(av.library_versions.items())}
    decoder = [av.__version__, libraries, PIL.__version__]
    text = json.dumps([FORMAT, folder.identity, camera, decoder])
    return hashlib.sha256(text.encode()).hexdigest()[:32]

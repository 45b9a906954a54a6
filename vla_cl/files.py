"""Writing so that a reader sees the old file or folder, or the whole new one, never half of it.

What is being written has a temporary name beside its place, and its writer holds a lock of the operating system on it.
A kill leaves the name but no lock, so `remove_leftovers` knows what nobody is writing any more.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_FILE = re.compile(r"\.[0-9a-f]{32}(\.[^.]*)?")
_LINK = re.compile(r"\.[0-9a-f]{32}\.link")
_FOLDER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}(?P<old>\.old)?")

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
"""What systems say that cannot lock: Lustre without ``flock``, NFS of a folder, some of FUSE."""

_CANNOT_LINK = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What systems say that have no symbolic links: FAT, some network filesystems."""

_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, with its ending; on success flush it to disk and rename it to ``path``.

    After an exception nothing is left behind, and the old file stays as it was. Parent folders are made.

    Raises:
        OSError: The disk is full, say; ``path`` is what it was, or new and whole.
    """
    make_folder(path.parent)
    temporary, handle = _new_file(path)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: the body fills a temporary one, which then takes the place of ``path``.

    Where the filesystem can, the two change places in one step, so there is no moment without ``path``; elsewhere a
    kill may leave only ``.<name>.<32 digits>.old``, which `remove_leftovers` puts back.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.mkdir()
    try:
        with _held(temporary):
            yield temporary
            for file in sorted(temporary.rglob("*")):
                flush(file)
            flush(temporary)
            _take_place(temporary, path)
            flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what stays is a leftover, and has its name


def remove_folder(path: Path) -> None:
    """Take a folder away: it is there whole or not at all. What a kill leaves of it goes with the other leftovers.

    Raises:
        OSError: It cannot be renamed.
    """
    if not path.is_dir():
        return
    going = path.with_name(f".{path.name}.{uuid4().hex}")
    path.rename(going)
    flush(path.parent)
    shutil.rmtree(going, ignore_errors=True)  # what stays is a leftover, and has its name


def remove_leftovers(folder: Path, alone: bool = False) -> None:
    """Remove what a kill left of `replacing` and `replacing_folder` in ``folder``, and put back what it took away.

    What a living process is writing stays.

    Args:
        folder: Looked through without its subfolders; it need not exist.
        alone: The caller knows that nobody else writes here, so leftovers are also removed where the filesystem cannot
            say whether somebody holds them.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_symlink():  # nobody can hold one
            if alone and _LINK.fullmatch(path.name):
                path.unlink()
        elif path.is_file() and _FILE.fullmatch(path.name):
            _remove(path, alone)
        elif path.is_dir() and (match := _FOLDER.fullmatch(path.name)):
            _restore_or_remove(path, match, alone)


def remove_leftovers_of(path: Path) -> None:
    """`remove_leftovers` of one folder only, whose lock the caller holds; its neighbours may be others'."""
    for found in sorted(path.parent.glob(f".{_literal(path.name)}.*")):
        match = _FOLDER.fullmatch(found.name)
        if match and match["name"] == path.name and found.is_dir() and not found.is_symlink():
            _restore_or_remove(found, match, alone=True)


def set_aside(path: Path) -> Path:
    """Give a damaged file or folder the hidden name ``.<name>.damaged``, or the first free one like it."""
    number = 1
    while (target := path.with_name(f".{path.name}.damaged{f'-{number}' if number > 1 else ''}")).exists():
        number += 1
    path.rename(target)
    flush(path.parent)
    return target


def is_leftover(path: Path) -> bool:
    """Whether a file or folder has a temporary name of this module."""
    return bool(_FILE.fullmatch(path.name) or _FOLDER.fullmatch(path.name))


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each on the disk when this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file, replacing an older one at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_link(path: Path, name: str) -> None:
    """Make ``path`` a relative symbolic link to its neighbour ``name``, replacing at once what has the name.

    Where links cannot be made, it becomes a text file that says the name. A folder of that name, as a copy that follows
    links leaves it, is removed.
    """
    temporary = path.with_name(f".{uuid4().hex}.link")
    if path.is_dir() and not path.is_symlink():
        old = path.with_name(f".{path.name}.{uuid4().hex}")
        path.rename(old)
        shutil.rmtree(old)
    try:
        temporary.symlink_to(name)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        write_text(path, f"{name}\n")
        return
    try:
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write JSON, replacing an older file at once; NaN is refused, because JSON has none."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the system put a file, or a folder's entries, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP) or not path.is_dir():
            raise  # some network filesystems have no fsync of a folder, and write its entries at once
    finally:
        os.close(handle)


def _new_file(path: Path) -> tuple[Path, int]:
    """A new temporary file beside ``path``, and the handle that holds it."""
    while True:
        temporary = path.with_name(f".{uuid4().hex}{path.suffix}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if _hold(handle) is not False and os.fstat(handle).st_nlink:
            return temporary, handle
        os.close(handle)  # taken for a leftover in the moment before it was held


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _hold(handle)
        yield
    finally:
        os.close(handle)


def _hold(handle: int) -> bool | None:
    """Lock a file or folder; False: another process holds it; None: this filesystem has no such locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _remove(path: Path, alone: bool) -> None:
    """Remove a leftover, unless a process is writing it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR)
    except FileNotFoundError:  # its writer has just finished
        return
    try:
        held = _hold(handle)
        if held is False or (held is None and not alone):
            return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _restore_or_remove(path: Path, match: re.Match[str], alone: bool) -> None:
    target = path.with_name(match["name"])
    if match["old"] and not target.exists():
        path.rename(target)
        flush(target.parent)
    else:
        _remove(path, alone)


def _take_place(temporary: Path, path: Path) -> None:
    """Give ``temporary`` the name ``path``; what had it has the temporary name then, or is gone."""
    if not path.exists():
        temporary.rename(path)
    elif not _exchange(temporary, path):
        old = path.with_name(f"{temporary.name}.old")
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system cannot (Linux: ``renameat2``)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _literal(name: str) -> str:
    """A file's name for ``glob``."""
    return re.sub(r"([*?[])", r"[\1]", name)

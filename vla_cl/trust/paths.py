"""Paths that files name: they stay inside the folder that names them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from vla_cl.trust.text import harmless, reason, short
from vla_cl.types import ConfigurationError


def inside(root: Path, relative: str, what: str) -> Path:
    """The path of a file that ``root`` names, if it lies in ``root``.

    Links may lead to the blobs of a hub's cache (``.../snapshots/<revision>`` beside ``.../blobs``), nowhere else
    outside.

    Args:
        root: The folder that the path must stay in.
        relative: As the file says it.
        what: Who says it, for the message: ``video_path of the dataset /a/b``.

    Raises:
        ConfigurationError: The path is absolute, climbs out by ``..``, or follows a link out of the folder.
    """
    pure = PurePosixPath(relative)
    if not relative or "\0" in relative or "\\" in relative or pure.is_absolute() or ".." in pure.parts:
        raise ConfigurationError(
            f"{what} is {harmless(relative, 60)!r}, which leaves the folder; expected a path inside {short(root, 40)}"
        )
    path = root / pure
    try:
        real, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ConfigurationError(
            f"{what} names {harmless(relative, 60)!r}, which cannot be followed ({reason(error)}); copy the file there"
        ) from error
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(folder) for folder in allowed):
        raise ConfigurationError(
            f"{what} names {harmless(relative, 60)!r}, a link that leads out of the folder to {short(real, 70)}; put "
            "the file itself in its place"
        )
    return path

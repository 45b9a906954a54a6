"""``MANIFEST.json``: size and SHA-256 of every file of a folder, written last and checked whenever it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vla_cl.files import sha256, write_json
from vla_cl.trust.paths import inside
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

MANIFEST = "MANIFEST.json"
FORMAT = 1


def write_manifest(folder: Path) -> None:
    """List every file below ``folder`` in its ``MANIFEST.json``; call it last, before the folder gets its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    listed = {path.relative_to(folder).as_posix(): _entry(path) for path in files}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": listed})


def verify_manifest(folder: Path, what: str, remedy: str) -> None:
    """Compare every file with the manifest.

    Args:
        folder: A folder that `write_manifest` was called on.
        what: What it is, for the message: ``checkpoint``.
        remedy: What to do if it is damaged.

    Raises:
        ConfigurationError: There is no manifest, or a file is missing, more than listed, of another size, or changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigurationError(f"{what} {short(folder)} is not complete: it has no {MANIFEST}; {remedy}")
    files = read_json_object(path, f"the manifest of {what}", remedy).get("files")
    if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
        raise ConfigurationError(f"{short(path)} does not list files with their bytes and sha256; {remedy}")
    for name, expected in files.items():
        file = inside(folder, name, f"the manifest {short(path)}")
        if not file.is_file():
            raise ConfigurationError(f"{what} {short(folder)} lacks {harmless(name, 60)}; {remedy}")
        if file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
            raise ConfigurationError(f"{short(file)} is damaged: it differs from its manifest; {remedy}")


def fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """A hash of names and contents, 64 hexadecimal digits: the same wherever the files lie and whenever written."""
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name}\0{path.stat().st_size}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def _entry(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys()

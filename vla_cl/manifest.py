"""Noticing damage: a manifest for a folder, a seal inside a file that stands alone.

``MANIFEST.json`` holds size and SHA-256 of every file of a folder; it is written last and checked whenever the folder
is used. A seal is a hash of a JSON object within the object, or of a text in its first line. Files of others have no
seal, and are read without one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from vla_cl.files import sha256, write_json
from vla_cl.trust.paths import inside
from vla_cl.trust.reading import read_json_object, read_lines
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

MANIFEST = "MANIFEST.json"
FORMAT = 1
SEAL = "seal"
"""Key of a sealed object's hash."""

_LINE = "# seal: "
_DIGITS = 16


def write_manifest(folder: Path) -> None:
    """List every file below ``folder`` in its ``MANIFEST.json``; call it last, before the folder gets its name."""
    listed = {path.relative_to(folder).as_posix(): _entry(path) for path in _files(folder)}
    write_json(folder / MANIFEST, seal({"format": FORMAT, "files": listed}))


def verify_manifest(folder: Path, what: str, remedy: str, only_listed: bool = True) -> None:
    """Compare every file with the manifest. Hidden files are not looked at: file managers leave some.

    Args:
        folder: A folder that `write_manifest` was called on.
        what: What it is, for the message: ``checkpoint``.
        remedy: What to do if it is damaged.
        only_listed: Also refuse files that the manifest does not list.

    Raises:
        ConfigurationError: There is no manifest, or a file is missing, not listed, of another size, or changed.
    """
    files = _listed(folder, what, remedy)
    for name, expected in files.items():
        file = inside(folder, name, f"the manifest {short(folder / MANIFEST)}")
        if not file.is_file():
            raise ConfigurationError(f"{what} {short(folder)} lacks {harmless(name, 60)}; {remedy}")
        if not _fits(file, expected):
            raise ConfigurationError(f"{short(file)} is damaged: it differs from its manifest; {remedy}")
    for file in _files(folder) if only_listed else ():
        if (name := file.relative_to(folder).as_posix()) not in files:
            raise ConfigurationError(
                f"{what} {short(folder)} holds {harmless(name, 60)}, which its manifest does not list; {remedy}"
            )


def damaged_files(folder: Path, among: Container[Path] | None = None) -> list[Path]:
    """Those of a folder's listed files that are there, but changed; none if its manifest cannot be read.

    Args:
        folder: A folder that `write_manifest` was called on.
        among: The only files that are looked at; None: all.
    """
    try:
        files = _listed(folder, "the folder", "")
        paths = {name: inside(folder, name, "the manifest") for name in files}
    except ConfigurationError:
        return []
    asked = {name: path for name, path in paths.items() if path.is_file() and (among is None or path in among)}
    return [path for name, path in asked.items() if not _fits(path, files[name])]


def seal(content: Mapping[str, Any], salt: str = "") -> dict[str, Any]:
    """A JSON object with a hash of itself, under `SEAL`.

    Args:
        content: Plain data.
        salt: What the object belongs to: one that is sealed with another salt does not fit.
    """
    return {**content, SEAL: _digest(content, salt)}


def require_seal(content: Mapping[str, Any], what: str, remedy: str, salt: str = "") -> None:
    """Refuse a sealed object that has changed; one without a seal is let pass, for other software writes none.

    Raises:
        ConfigurationError: The seal does not fit.
    """
    bare = {key: value for key, value in content.items() if key != SEAL}
    if SEAL in content and content[SEAL] != _digest(bare, salt):
        raise ConfigurationError(f"{what} is damaged: it does not fit its seal; {remedy}")


def seal_text(text: str) -> str:
    """A text with a first line that holds the hash of the rest; a comment to YAML and to people."""
    return f"{_LINE}{_hash(text.encode())}\n{text}"


def require_text_seal(text: str, what: str, remedy: str) -> None:
    """Refuse a sealed text that has changed; one without a seal is let pass.

    Raises:
        ConfigurationError: The seal does not fit.
    """
    first, _, body = text.partition("\n")
    if first.startswith(_LINE) and first.removeprefix(_LINE).strip() != _hash(body.encode()):
        raise ConfigurationError(f"{what} is damaged or was edited: it does not fit its seal in line 1; {remedy}")


def has_text_seal(path: Path, what: str) -> bool:
    """Whether a text file begins with a seal, as those of this version do.

    Raises:
        ConfigurationError: It is missing or cannot be read.
    """
    _, line, _ = next(read_lines(path, what, "restore it"), (0, b"", True))
    return line.startswith(_LINE.encode())


def fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """A hash of names and contents, 64 hexadecimal digits: the same wherever the files lie and whenever written."""
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name}\0{path.stat().st_size}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def _listed(folder: Path, what: str, remedy: str) -> dict[str, dict[str, Any]]:
    """The entries of a manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigurationError(f"{what} {short(folder)} is not complete: it has no {MANIFEST}; {remedy}")
    content = read_json_object(path, f"the manifest of {what}", remedy)
    require_seal(content, short(path), remedy)
    files = content.get("files")
    if content.get("format") != FORMAT or not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise ConfigurationError(f"{short(path)} does not list files with their bytes and sha256; {remedy}")
    return files


def _fits(file: Path, expected: Mapping[str, Any]) -> bool:
    return bool(file.stat().st_size == expected["bytes"] and sha256(file) == expected["sha256"])


def _files(folder: Path) -> list[Path]:
    """Every file but the manifest and hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST and not _is_hidden(path.relative_to(folder))
    )


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _entry(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys()


def _digest(content: Mapping[str, Any], salt: str) -> str:
    return _hash(json.dumps([salt, content], sort_keys=True).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]

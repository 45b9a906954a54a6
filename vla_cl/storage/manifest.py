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
from vla_cl.trust.reading import read_json_object, read_text
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

MANIFEST = "MANIFEST.json"
RUN_FORMAT = 2
"""Of a run: raised whenever the same command would give other weights. Runs of another one are read, not continued."""

READABLE_RUNS = (1, 2)
"""Formats of runs that are opened: reported, compared, measured, evaluated, listed."""

FORMAT = 1
SEAL = "seal"
"""Key of a sealed object's hash."""

_LINE = "# seal: "
_DIGITS = 16
_RUN = "run"
_SETTINGS = "config.yaml"
_SUMMARY = "run.json"
_SETTINGS_BYTES = 4 * 2**20


def write_manifest(folder: Path, run: str | None = None) -> None:
    """List every file below ``folder`` in its ``MANIFEST.json``; call it last, before the folder gets its name.

    Args:
        folder: What is listed.
        run: The `run_key` of the run that it belongs to.
    """
    listed = {path.relative_to(folder).as_posix(): _entry(path) for path in _files(folder)}
    write_json(folder / MANIFEST, seal({"format": FORMAT, "files": listed} | ({_RUN: run} if run else {})))


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


def damaged_files(folder: Path, among: Container[Path] | None = None, run: str | None = None) -> list[Path]:
    """Those of a folder's listed files that are there, but changed or of another run; none if it has no manifest.

    Args:
        folder: A folder that `write_manifest` was called on.
        among: The only files that are looked at; None: all.
        run: The `run_key` of the run that they should belong to.
    """
    try:
        content = _content(folder, "the folder", "")
        files = content["files"]
        paths = {name: inside(folder, name, "the manifest") for name in files}
    except ConfigurationError:
        return []
    asked = {name: path for name, path in paths.items() if path.is_file() and (among is None or path in among)}
    foreign = None not in (run, content.get(_RUN)) and run != content[_RUN]
    return [path for name, path in asked.items() if foreign or not _fits(path, files[name])]


def is_whole(folder: Path, name: str) -> bool:
    """Whether a folder's manifest is sound and lists this file as it is.

    Args:
        folder: A folder that `write_manifest` was called on.
        name: Of the file, relative to it.
    """
    try:
        files = _listed(folder, "the folder", "")
    except ConfigurationError:
        return False
    return name in files and (folder / name).is_file() and _fits(folder / name, files[name])


def run_key(folder: Path) -> str | None:
    """What the files of a run are marked with: the seal of its settings.

    Args:
        folder: The run's.

    Returns:
        Hexadecimal digits; None if the folder has no ``config.yaml`` with a seal.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    path = folder / _SETTINGS
    if not path.exists():
        return None
    first = read_text(path, "the settings of the run", "restore the file", _SETTINGS_BYTES).partition("\n")[0]
    return first.removeprefix(_LINE).strip() if first.startswith(_LINE) else None


def of_run(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A JSON object marked as the run's whose folder is given; unmarked if that is no run."""
    key = run_key(folder)
    return {**content, _RUN: key} if key else dict(content)


def require_of_run(content: Mapping[str, Any], folder: Path, what: str, remedy: str) -> None:
    """Refuse what another run wrote: its entry ``run`` is another one's. What says nothing is let pass.

    Args:
        content: What was read.
        folder: Of the run that it lies in.
        what: What it is, for the message.
        remedy: What to do.

    Raises:
        ConfigurationError: It belongs to another run.
    """
    told, own = content.get(_RUN), run_key(folder)
    if None not in (told, own) and told != own:
        raise ConfigurationError(f"{what} belongs to another run than {short(folder)}; {remedy}")


def require_readable(content: Mapping[str, Any], what: str) -> None:
    """Refuse the summary of a run of a format that this version does not know.

    Args:
        content: Of its ``run.json``.
        what: What it is, for the message.

    Raises:
        ConfigurationError: Its format is not among `READABLE_RUNS`, or not said.
    """
    written = content.get("format")
    if type(written) is not int or written not in READABLE_RUNS:
        raise ConfigurationError(
            f"{what} has format {harmless(repr(written), 20)}, but this version reads the formats "
            f"{' and '.join(map(str, READABLE_RUNS))}; use the version of vla-cl that wrote the run"
        )


def require_readable_run(folder: Path) -> None:
    """The same for whoever reads other files of a run. A damaged ``run.json``, or one of other software, is let pass.

    Args:
        folder: The run's, perhaps.

    Raises:
        ConfigurationError: It holds a run of a format that is not among `READABLE_RUNS`.
    """
    path = folder / _SUMMARY
    if not path.is_file():
        return
    try:
        content = read_json_object(path, "the summary of the run", "")
    except ConfigurationError:  # whoever needs it says so
        return
    if {"format", "tasks"} <= content.keys():
        require_readable(content, short(path))


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


def fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """A hash of names and contents, 64 hexadecimal digits: the same wherever the files lie and whenever written."""
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name}\0{path.stat().st_size}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def _listed(folder: Path, what: str, remedy: str) -> dict[str, dict[str, Any]]:
    """The entries of a manifest."""
    files: dict[str, dict[str, Any]] = _content(folder, what, remedy)["files"]
    return files


def _content(folder: Path, what: str, remedy: str) -> dict[str, Any]:
    """A manifest; its ``files`` are what they should be."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigurationError(f"{what} {short(folder)} is not complete: it has no {MANIFEST}; {remedy}")
    content = read_json_object(path, f"the manifest of {what}", remedy)
    require_seal(content, short(path), remedy)
    files = content.get("files")
    if content.get("format") != FORMAT or not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise ConfigurationError(f"{short(path)} does not list files with their bytes and sha256; {remedy}")
    return content


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

"""Finished episodes, written down at once, so that an evaluation that is killed loses none of them.

The folder of an evaluation holds ``evaluation.json``, which says what is evaluated, and ``episodes.jsonl``, one JSON
object per finished episode in the order in which they finished. A kill can only tear the last line; it is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from vla_cl.files import flush, write_json
from vla_cl.storage.locks import only_writer
from vla_cl.storage.manifest import SEAL, require_seal, seal
from vla_cl.trust.paths import inside
from vla_cl.trust.reading import LINES_BYTES, as_plain, parse_json_object, read_json_object, require_entries
from vla_cl.trust.text import harmless, reason, short
from vla_cl.types import ConfigurationError, Episode, EpisodeRequest, Outcome

IDENTITY = "evaluation.json"
EPISODES = "episodes.jsonl"
LOCK = ".lock"

_EPISODE_FIELDS = tuple(item.name for item in fields(Episode) if item.name != "frames")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "task": str, "split": str, "initial_state": int, "env_steps": int, "decisions": int, "total_reward": float,
    "seconds": (int, float), "session": int, "elapsed": (int, float),
}  # fmt: skip
_CALLED = "called"
_OTHER_POLICY = "another policy"
_POLICY_KEYS = ("policy.files", "policy.method", "policy.random was ", "device was none,")
"""Beginnings of differences that mean another policy; one that acts at random has no device."""

_DIFFERENCES_SHOWN = 2
_CHARACTERS_SHOWN = 60


@dataclass(frozen=True)
class Entry:
    """A finished episode.

    Attributes:
        episode: Without its frames.
        video: Path of its film, relative to the evaluation's folder.
        session: Counts the processes that worked on the evaluation, from 0.
        elapsed: Seconds from the start of the session's rollouts to the end of this episode.
    """

    episode: Episode
    video: str | None
    session: int
    elapsed: float


class Journal:
    """The finished episodes of one evaluation; a context manager that keeps other processes out.

    Args:
        folder: Of the evaluation; made when the journal is opened.
        identity: All that decides the episodes, as plain data; see `check_same_evaluation`.
        policy: What people call the policy; a note for messages, it decides nothing.

    Raises:
        ConfigurationError: When opened: the folder holds another evaluation, another process works on this one, or a
            line that is not the last is damaged.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object], policy: str | None = None) -> None:
        self.folder = folder
        self._identity = identity
        self._policy = policy
        self._entries: dict[tuple[str, str, int], Entry] = {}
        self._salt = _salt(identity)
        self._held = ExitStack()
        self._file: BinaryIO | None = None
        self._session = 0

    def __enter__(self) -> Self:
        """Lock the folder, read what is there, and drop a torn last line."""
        check_same_evaluation(self.folder, self._identity, self._policy)
        with ExitStack() as held:
            held.enter_context(only_writer(self.folder / LOCK, f"the evaluation {short(self.folder)}"))
            check_same_evaluation(self.folder, self._identity, self._policy)  # another process may have begun meanwhile
            path = self.folder / EPISODES
            file = cast(BinaryIO, path.open("a+b", buffering=0))  # unbuffered: an episode is one write of the system
            held.callback(file.close)
            write_json(self.folder / IDENTITY, seal(self._described))
            whole = _whole_lines(path)
            file.truncate(len(whole))
            self._entries = {_key(entry.episode): entry for entry in _entries(path, whole, self._salt)}
            flush(self.folder)
            self._held = held.pop_all()
        self._file = file
        self._session = 1 + max((entry.session for entry in self._entries.values()), default=-1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and unlock the folder."""
        self._held.close()

    @property
    def _described(self) -> dict[str, object]:
        return {**self._identity, **({_CALLED: self._policy} if self._policy else {})}

    def __len__(self) -> int:
        """Number of finished episodes."""
        return len(self._entries)

    def find(self, request: EpisodeRequest) -> Entry | None:
        """The finished episode that was asked for, if there is one."""
        return self._entries.get((request.task.id, request.split, request.initial_state))

    def append(self, episode: Episode, video: str | None, elapsed: float) -> None:
        """Write an episode down; it is on the disk when this returns. A later entry of an episode replaces an earlier.

        Raises:
            RuntimeError: The journal is not open.
        """
        if self._file is None or self._file.closed:
            raise RuntimeError(f"{self.folder / EPISODES} is not open")
        entry = Entry(episode, video, self._session, round(elapsed, 3))
        _write_all(self._file, _line(entry, self._salt))
        os.fsync(self._file.fileno())
        self._entries[_key(episode)] = entry


def check_same_evaluation(folder: Path, identity: Mapping[str, object], policy: str | None = None) -> None:
    """Refuse a folder that holds something else than this evaluation or the beginning of it.

    An evaluation of which no episode has finished leaves nothing to lose, so another one may take its folder.

    Args:
        folder: Of the evaluation.
        identity: All that decides the episodes.
        policy: What people call the policy now.

    Raises:
        ConfigurationError: The message says what differs.
    """
    path = folder / IDENTITY
    if not path.is_file():
        if _foreign(folder):
            raise ConfigurationError(
                f"{short(folder)} is not empty and holds no evaluation (it has no {IDENTITY}); give output_dir=<a "
                f"new folder>"
            )
        return
    remedy = "give output_dir=<a new folder>"
    before = read_json_object(path, "the description of the evaluation", remedy)
    require_seal(before, short(path), remedy)
    before.pop(SEAL, None)
    called = before.pop(_CALLED, None)
    named = called if isinstance(called, str) else None
    if named is not None and named == policy:
        named += " as it was then"
    now = as_plain(identity)
    if before != now and _whole_lines(folder / EPISODES):
        raise ConfigurationError(
            f"{short(folder, 55)} holds an evaluation {_of_what(before, now, named)}; give output_dir=<a new folder>, "
            "or the same settings to continue it"
        )


def _of_what(before: Mapping[str, Any], now: Mapping[str, Any], policy: str | None) -> str:
    """``of another policy (outputs/demo/er)``, or at most two of the settings that differ, in words."""
    words = list(dict.fromkeys(_in_words(text, before) for text in differences(before, now)))
    shown = [text for text in words if text != _OTHER_POLICY]
    of_policy = len(shown) < len(words)
    more = len(shown) - (_DIFFERENCES_SHOWN - of_policy)
    shown = [harmless(text, _CHARACTERS_SHOWN) for text in shown[: _DIFFERENCES_SHOWN - of_policy]]
    settings = f"with other settings ({'; '.join([*shown, *([f'{more} more'] if more > 0 else [])])})" if shown else ""
    which = f"{_OTHER_POLICY} ({short(policy, 50)})" if policy else _OTHER_POLICY
    return " and ".join(filter(None, (f"of {which}" if of_policy else "", settings)))


def _in_words(difference: str, before: Mapping[str, Any]) -> str:
    """One of the `differences`, without hashes and names that only the program knows."""
    if difference.startswith(_POLICY_KEYS) or (difference.startswith("device") and difference.endswith("now none")):
        return _OTHER_POLICY
    if difference.startswith("tasks."):
        return f"{len(before['tasks'])} tasks, not the same"
    key, was, rest = difference.partition(" was ")
    return f"{key.rpartition('.')[2] if key.startswith('suite.fingerprint') else key}{was}{rest}"


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401 - nested plain data
    """Where two nested dictionaries differ: ``split was report, is now select``."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name} was {_shown(before)}, is now {_shown(now)}"


def _shown(value: object) -> str:
    text = "absent" if value is None else harmless(str(value), 500)
    return text if len(text) <= _CHARACTERS_SHOWN else f"{text[: _CHARACTERS_SHOWN - 4]} ..."


def _foreign(folder: Path) -> bool:
    """Whether something lies there that a kill right after the folder was made does not explain."""
    if not folder.exists():
        return False
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(path.name != EPISODES or path.stat().st_size for path in files)


def _write_all(file: BinaryIO, content: bytes) -> None:
    """An unbuffered write may take only a part, as when the disk fills up; the next one then says why."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _whole_lines(path: Path) -> bytes:
    """The file up to the end of its last whole line."""
    content = b""
    with suppress(FileNotFoundError):
        if path.stat().st_size > LINES_BYTES:
            raise ConfigurationError(
                f"{short(path)} is larger than {LINES_BYTES} bytes; give output_dir=<a new folder>"
            )
        content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _entries(path: Path, lines: bytes, salt: str) -> Iterator[Entry]:
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            row = parse_json_object(line, "it", "")
            require_seal(row, "it", "", salt)
            row |= {"outcome": Outcome(row["outcome"]), "total_reward": float(row["total_reward"])}
            episode = Episode(**{name: row[name] for name in _EPISODE_FIELDS})
            require_entries(row, _KINDS, "it", "")
            yield Entry(episode, _video(row["video"]), row["session"], row["elapsed"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"line {number} of {short(path)} is damaged ({reason(error)}); delete the line, and its episode is "
                "rolled out again"
            ) from error


def _video(name: object) -> str | None:
    """The path of a film, which lies in the evaluation's folder.

    Raises:
        ConfigurationError: It leads elsewhere.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise ConfigurationError(f"the video is {harmless(repr(name), 40)}, expected a path")
    inside(Path(), name, "the video")
    return name


def _line(entry: Entry, salt: str) -> bytes:
    episode = entry.episode
    row = {name: getattr(episode, name) for name in _EPISODE_FIELDS}
    if not math.isfinite(episode.total_reward):
        row["total_reward"] = str(episode.total_reward)  # JSON has no NaN; float() reads it back
    row |= {"video": entry.video, "session": entry.session, "elapsed": entry.elapsed}
    return json.dumps(seal(row, salt), allow_nan=False).encode() + b"\n"


def _salt(identity: Mapping[str, object]) -> str:
    """What the lines of one evaluation have in common, so that those of another are noticed."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _key(episode: Episode) -> tuple[str, str, int]:
    return episode.task, episode.split, episode.initial_state

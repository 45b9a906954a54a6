"""What a method is told about its memory: how much, of what, chosen how, kept in which form."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from vla_cl.settings.checks import MOST
from vla_cl.settings.rules import shown
from vla_cl.types import ConfigurationError

Split = Literal["equal", "proportional", "similarity"]
Unit = Literal["frame", "window", "trajectory"]
Keep = Literal["index", "copy"]
Encoding = Literal["raw", "jpeg", "h264", "features"]

SETTING = "method.memory"
"""Where these settings stand in a run's configuration; messages begin with it."""

_UNITS_OF_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MOST_BYTES = 2**60
"""Largest budget."""

_LIMITS = ("budget", "samples_per_task", "trajectories_per_task")


@dataclass(frozen=True)
class MemorySettings:
    """Settings of a `vla_cl.memory.replay_memory.ReplayMemory`.

    Attributes:
        budget: Bytes for all tasks together, with the outputs that a method stores beside the samples: a whole number,
            or a text such as ``25 MB`` (10^6) or ``24 MiB`` (2^20).
        samples_per_task: Instead: frames kept of each task, however many tasks come (LIBERO: 1000).
        trajectories_per_task: Instead: episodes kept of each task; needs ``unit: trajectory``.
        split: How a budget is divided between tasks: ``equal``; ``proportional`` to the length of their data;
            ``similarity``, the past tasks' part by how far their mean features are from the newest task's (InsCL, Wang
            et al., NAACL 2024), all under the model that has just learnt the newest: of the past tasks, of what is
            remembered of them. It needs a model with features.
        selection: Name of a rule, a file of `vla_cl.memory.rules`. A rule that asks the model (``herding``, ``loss``)
            asks it once, when it has just learnt the task; the order that a later model would give is not looked at.
        selection_settings: Of that rule.
        unit: What is chosen: single frames, contiguous windows of an episode, or whole episodes.
        window: Frames of a window; an episode's last window may be shorter.
        keep: ``index`` remembers where the samples lie in their datasets, which must stay; ``copy`` writes them down.
        encoding: Of a copy's pictures: ``raw``, ``jpeg``, ``h264``, or ``features``, the embeddings by the model
            of that time in place of pictures, which can be read but not trained from.
        quality: Of JPEG, 1 to 100.
        crf: Of H.264, 0 (lossless but for the colour space) to 51.
        reuse: A LeRobotDataset written by ``vla-cl memory RUN --export``, or null: the memory that a run starts with.
            Not for methods that compare with stored outputs.

    Raises:
        ConfigurationError: A setting is unknown or out of range, or two do not go together.
    """

    budget: int | str | None = None
    samples_per_task: int | None = None
    trajectories_per_task: int | None = None
    split: Split = "equal"
    selection: str = "uniform"
    selection_settings: Mapping[str, Any] = field(default_factory=dict)
    unit: Unit = "frame"
    window: int = 16
    keep: Keep = "index"
    encoding: Encoding = "raw"
    quality: int = 95
    crf: int = 23
    reuse: str | None = None

    def __post_init__(self) -> None:
        self._check_limit()
        for name, kind in (("split", Split), ("unit", Unit), ("keep", Keep), ("encoding", Encoding)):
            _choice(name, getattr(self, name), get_args(kind))
        for name, low, high in (("window", 1, MOST), ("quality", 1, 100), ("crf", 0, 51)):
            _whole_number(name, getattr(self, name), low, high)
        if self.reuse is not None and not isinstance(self.reuse, str):
            raise ConfigurationError(f"{SETTING}.reuse must be a folder or null; got {shown(self.reuse)}")
        if self.encoding != "raw" and self.keep == "index":
            raise ConfigurationError(
                f"{SETTING}.encoding={self.encoding} needs {SETTING}.keep=copy: an index encodes no pictures"
            )
        if self.encoding == "h264" and self.unit == "frame":
            raise ConfigurationError(
                f"{SETTING}.encoding=h264 needs {SETTING}.unit=window or trajectory: a film of one frame saves nothing"
            )
        self._refuse_idle()
        if self.split == "similarity" and self.encoding == "features":
            raise ConfigurationError(
                f"{SETTING}.split=similarity compares features of one model, {SETTING}.encoding=features keeps those "
                "of older ones; choose another split or encoding"
            )
        from vla_cl.memory.selection import rule_named  # a rule may be any file; importing it checks the name

        rule_named(self.selection, self.selection_settings)

    @classmethod
    def of(cls, settings: Mapping[str, Any] | MemorySettings | None, selection: str = "uniform") -> MemorySettings:
        """From plain data, as a yaml gives them; None means LIBERO's 1000 samples per task, chosen at random.

        Args:
            settings: Names and values of fields.
            selection: The rule where plain data name none.

        Raises:
            ConfigurationError: As the constructor; an unknown name comes with the nearest known one.
        """
        if isinstance(settings, MemorySettings):
            return settings
        if settings is None:
            return cls(samples_per_task=1000)
        if not isinstance(settings, Mapping):
            raise ConfigurationError(
                f"{SETTING} must be a mapping of settings; got {shown(settings)}; for example "
                f"'{SETTING}={{budget: 25 MB}}'"
            )
        known = [item.name for item in fields(cls)]
        for name in settings:
            if name not in known:
                raise ConfigurationError(f"{SETTING} has no setting {name!r}; {nearest(str(name), known)}")
        return cls(**{"selection": selection} | {str(name): value for name, value in settings.items()})

    @property
    def budget_bytes(self) -> int | None:
        """The budget in bytes."""
        return None if self.budget is None else parse_bytes(self.budget)

    def _refuse_idle(self) -> None:
        """Refuse what has no effect with the other settings, unless it is at its default."""
        for name, effective, because in (
            ("split", self.budget is not None, f"without {SETTING}.budget"),
            ("window", self.unit == "window", f"with {SETTING}.unit={self.unit}"),
            ("quality", self.encoding == "jpeg", f"with {SETTING}.encoding={self.encoding}"),
            ("crf", self.encoding == "h264", f"with {SETTING}.encoding={self.encoding}"),
        ):
            given, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if not effective and given != default:
                raise ConfigurationError(
                    f"{SETTING}.{name}={given} has no effect {because}; leave it out, or change the other setting"
                )

    def _check_limit(self) -> None:
        given = [name for name in _LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigurationError(
                f"{SETTING} needs exactly one of {', '.join(_LIMITS)}; got {' and '.join(given) or 'none'}"
            )
        if self.budget is not None:
            parse_bytes(self.budget)
        else:
            _whole_number(given[0], getattr(self, given[0]), 1, MOST)
        if self.trajectories_per_task is not None and self.unit != "trajectory":
            raise ConfigurationError(
                f"{SETTING}.trajectories_per_task needs {SETTING}.unit=trajectory; got unit={self.unit!r}"
            )


def parse_bytes(text: int | str) -> int:
    """Bytes of ``25 MB`` (10^6), ``24MiB`` (2^20), or a whole number of bytes.

    Raises:
        ConfigurationError: It is none of these, or it is not a positive whole number of at most 2^60 bytes.
    """
    if isinstance(text, int) and not isinstance(text, bool) and 0 < text <= MOST_BYTES:
        return text
    found = re.fullmatch(r"(\d{1,30})(?:\.(\d{1,30}))? ?([A-Za-z]+)", text.strip()) if isinstance(text, str) else None
    if found and found[3] in _UNITS_OF_BYTES:
        whole, part, unit = found.groups()
        digits = part or ""
        scale: int = 10 ** len(digits)
        count, rest = divmod(int(whole + digits) * _UNITS_OF_BYTES[unit], scale)
        if 0 < count <= MOST_BYTES and not rest:
            return count
    raise ConfigurationError(
        f"{SETTING}.budget must be a positive whole number of bytes, or a number with one of "
        f"{', '.join(_UNITS_OF_BYTES)}, for example '25 MB', and at most 2^60 bytes; got {shown(text)}"
    )


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a misspelt name: the likeliest ones, else all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"


def reused_folder(settings: MemorySettings) -> Path | None:
    """The dataset that the memory starts with.

    Raises:
        ConfigurationError: There is none in that folder.
    """
    if settings.reuse is None:
        return None
    folder = Path(settings.reuse).expanduser()
    if not (folder / "meta" / "info.json").is_file():
        raise ConfigurationError(
            f"{SETTING}.reuse={settings.reuse} holds no dataset; write one with `vla-cl memory RUN --export FOLDER`"
        )
    return folder


def _choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{SETTING}.{name} must be one of {', '.join(allowed)}; got {shown(value)}")


def _whole_number(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigurationError(
            f"{SETTING}.{name} must be a whole number between {low} and {high:g}; got {shown(value)}"
        )

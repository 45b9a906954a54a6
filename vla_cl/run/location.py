"""Where a policy lies: in a run, in a checkpoint, in a folder, on the hub, or nowhere, if it acts at random.

Of a run, its resolved settings say in which suite it learnt and how often it planned; evaluations take that over.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from vla_cl.config.compose import Settings, compose
from vla_cl.run.folder import read_settings, require_robot
from vla_cl.storage.manifest import SEAL, require_of_run, require_readable_run, require_seal
from vla_cl.storage.names import file_name
from vla_cl.trust.hub import fetch_policy
from vla_cl.trust.reading import read_json_object, require_entries
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, Task

RANDOM = "random"
"""Given instead of a policy: `vla_cl.rollout.random_policy.RandomPolicy`. A folder of this name is ``./random``."""

_CONFIG = "config.yaml"
_SUMMARY = "run.json"
_PARENTS = 3
_OUTPUTS = "outputs"
_REPLAN = "evaluation.replan_every"
_CHOICE = "of_the_run"
_RESTORE = "restore the file, or name tasks=[...]"


@dataclass(frozen=True)
class PastRun:
    """A run that a policy came from.

    Attributes:
        root: Its folder.
        settings: As they were composed then.
    """

    root: Path
    settings: Settings


def compose_evaluation(location: str, overrides: Sequence[str], folders: Sequence[Path] = ()) -> Settings:
    """Settings of ``vla-cl evaluate``: for a policy in a run, suite and ``replan_every`` are the run's.

    What the overrides name wins: ``suite=`` another suite, ``suite.x=y`` one setting of the run's.

    Args:
        location: As of `vla_cl.run.evaluate.evaluate`.
        overrides: The user's, as of `vla_cl.config.compose.compose`.
        folders: As of `vla_cl.config.compose.compose`.

    Raises:
        ConfigurationError: As of `compose`; or the run's suite is in a package that ``plugins`` does not list: the
            run's own list does not count.
    """
    for folder in _around(location):
        if (folder / _CONFIG).is_file() and (folder / _SUMMARY).is_file():
            require_robot(_read(folder / _CONFIG), folder, "vla-cl evaluate")
    run = find_run(location)
    if run is None:
        return compose(overrides, root="evaluate", folders=folders)
    named = {item.lstrip("+~").partition("=")[0] for item in overrides}
    taken: list[str] = []
    shown: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        if "suite" not in named:
            suite = _as_text(run.settings["suite"])
            file = Path(temporary) / "suite" / f"{_CHOICE}.yaml"
            file.parent.mkdir()
            file.write_text(yaml.safe_dump(suite, allow_unicode=True), encoding="utf-8")
            taken.append(f"suite={_CHOICE}")
            shown.append(f"suite={harmless(str(suite.get('name', suite['class'])), 60)}")
        replan_every = _replan_every(run)
        if _REPLAN not in named and replan_every is not None:
            taken.append(f"{_REPLAN}={replan_every}")
            shown.append(taken[-1])
        settings = compose([*taken, *overrides], root="evaluate", folders=[*folders, Path(temporary)])
    if "cameras" not in named and (cameras := run.settings.get("cameras")) is not None:
        settings["cameras"] = cameras
        shown.append(f"cameras={harmless(str(cameras), 200)}")
    if "suite" not in named:
        require_listed(run, "suite", settings["suite"]["class"], settings["plugins"])
    if shown:
        print(f"as in the run {harmless(str(run.root), 1000)}: {', '.join(shown)}")
    return settings


def _replan_every(run: PastRun) -> int | None:
    """The run's own setting; it goes into a command line, so it has to be a number."""
    evaluation = run.settings.get("evaluation")
    value = evaluation.get("replan_every") if isinstance(evaluation, dict) else None
    if value is not None and type(value) is not int:
        raise ConfigurationError(
            f"{short(run.root / _CONFIG)} gives {_REPLAN} as {harmless(repr(value), 60)}, expected a whole number; "
            f"add {_REPLAN}=<number>"
        )
    return value


def _as_text(value: Any) -> Any:  # noqa: ANN401 - plain data
    """The same for OmegaConf: it would resolve ``${oc.env:HOME}`` here, in another environment than the run's."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, str):  # a backslash hides the dollar, and one before it has to be doubled
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
    return value


def find_run(location: str) -> PastRun | None:
    """The run that a folder is, or lies in at most three levels deep; None if there is none.

    Raises:
        ConfigurationError: A ``config.yaml`` cannot be read or is lost, or the run is of an unknown format.
    """
    _require_readable(location)
    for place, folder in enumerate(_around(location)):
        # a config.yaml of something else above the policy is not looked into
        written = place == 0 or (folder / "checkpoints").is_dir() or (folder / _SUMMARY).is_file()
        if written and (folder / _CONFIG).is_file():
            settings = _read(folder / _CONFIG)
            parts = [settings.get(name) for name in ("suite", "method")]
            if all(isinstance(part, dict) and "class" in part for part in parts) and "train_seed" in settings:
                return PastRun(folder, settings)
        elif (folder / "checkpoints").is_dir() and _is_summary(folder / _SUMMARY):
            raise ConfigurationError(
                f"the run {short(folder)} has lost its {_CONFIG}, which says in which suite it learnt; restore it, or "
                "copy the checkpoint's pretrained_model out of the run to roll it out by itself"
            )
    return None


def _require_readable(location: str) -> None:
    """Refuse what lies in a run of a format that this version does not know."""
    for folder in _around(location):
        require_readable_run(folder)


def _is_summary(path: Path) -> bool:
    """Whether a file is a run's ``run.json``, and not something of other software."""
    if not path.is_file():
        return False
    return {"tasks", SEAL} <= read_json_object(path, "the summary of the run", _RESTORE).keys()


def require_listed(run: PastRun, what: str, kind: str, plugins: Sequence[str]) -> None:
    """Refuse a run's class that the user has not allowed.

    Raises:
        ConfigurationError: Its package is neither ours nor in ``plugins``.
    """
    package = str(kind).partition(":")[0].split(".")[0]
    if package not in ("vla_cl", *plugins):
        raise ConfigurationError(
            f"the {what} of the run {short(run.root)} is {harmless(repr(kind), 60)}, and its package is not listed; "
            f"if you trust it, add plugins=[{','.join((*plugins, harmless(package, 40)))}]"
        )


def tasks_of_run(location: str, available: Sequence[Task]) -> list[str]:
    """The tasks that the run around a policy was about, as far as this suite has them; none outside of a run.

    Of an independent run, whose policies each know one experience, those of this policy's.

    Raises:
        ConfigurationError: The run's ``run.json`` is lost or damaged.
    """
    known = {task.id for task in available}
    run = find_run(location)
    for folder in _around(location):
        path = folder / _SUMMARY
        if path.is_file():
            info = read_json_object(path, "the summary of the run", _RESTORE)
            require_seal(info, short(path), "give the run's command again: it writes the file anew")
            require_of_run(info, folder, short(path), "give the run's command again: it writes the file anew")
            tasks = require_entries(info, {"tasks": list}, short(path), _RESTORE)["tasks"]
            names = [require_entries(task, {"id": str}, short(path), _RESTORE)["id"] for task in tasks]
            if info.get("arrangement") == "independent":
                names = _learnt_alone(location, info, names, path)
            return [name for name in names if name in known]
        if run is not None and folder == run.root:
            raise ConfigurationError(
                f"the run {short(folder)} has no {_SUMMARY}, which says what it learnt; give the run's command again, "
                "which writes the file anew, or name tasks=[...]"
            )
    return []


def _learnt_alone(location: str, info: dict[str, Any], names: list[str], path: Path) -> list[str]:
    """The tasks of the experience that an independent run's checkpoint has learnt; all, outside of its checkpoints."""
    number = find_policy(location).folder.resolve().parent.name
    experiences = require_entries(info, {"experiences": list}, short(path), _RESTORE)["experiences"]
    if not number.isdecimal() or not 1 <= int(number) <= len(experiences):
        return names
    tasks = require_entries(experiences[int(number) - 1], {"tasks": list}, short(path), _RESTORE)["tasks"]
    return [name for name in names if name in tasks]


def policy_name(location: str) -> str:
    """A short name of a policy, made of where it lies, for that of a folder: ``demo-er``, ``demo-er-003``, ``random``.

    Args:
        location: As of `find_policy`, or ``random``.
    """
    parts = _around(location)[0].parts if _around(location) else Path(location).parts
    if _OUTPUTS in parts:
        parts = parts[len(parts) - parts[::-1].index(_OUTPUTS) :]
    named = [part for part in parts if part not in ("checkpoints", "pretrained_model", "/", "..")]
    last = 1 + bool(named and re.fullmatch(r"[0-9]+", named[-1]))  # the number of a checkpoint says nothing alone
    return file_name("-".join(named[-1 - last :]) or "policy")


def _around(location: str) -> tuple[Path, ...]:
    """The folder and those above it that may be its run's; none for what does not lie on this disk."""
    from vla_cl.run import checkpoint

    path = checkpoint.behind_last(Path(location))
    if location == RANDOM or not path.exists():
        return ()
    folder = path.resolve()
    return (folder, *folder.parents[:_PARENTS])


def _read(config: Path) -> Settings:
    """The settings of a run as text says them: ``${...}`` in them is text, too."""
    return read_settings(config)


@dataclass(frozen=True)
class FoundPolicy:
    """Where LeRobot's files of a policy lie.

    Attributes:
        folder: On this disk; if it belongs to a checkpoint, that is whole.
        passed_over: A sentence for each newer checkpoint of the run that is damaged.
    """

    folder: Path
    passed_over: tuple[str, ...] = ()


def find_policy(location: str) -> FoundPolicy:
    """The folder that LeRobot loads: of a run the newest whole checkpoint's, of a checkpoint its ``pretrained_model``.

    A policy on the hub is downloaded into the hub's cache, unless it lies there.

    Raises:
        ConfigurationError: The run has no checkpoint yet or an unknown format, the checkpoint that was named is
            damaged, or neither the disk nor the hub has such a policy.
    """
    from vla_cl.run import checkpoint

    _require_readable(location)
    path = checkpoint.behind_last(Path(location))
    if not path.exists():
        return FoundPolicy(fetch_policy(location))
    if (path / "pretrained_model").is_dir():
        if checkpoint.is_checkpoint(path):
            checkpoint.verify(path)
        return FoundPolicy(path / "pretrained_model")
    if (path / _CONFIG).is_file() or (path / "checkpoints").is_dir():
        newest = checkpoint.find_newest(path / "checkpoints")
        if newest is None:
            raise ConfigurationError(f"the run {short(path)} has no whole checkpoint yet; let it learn its first task")
        return FoundPolicy(newest.folder / "pretrained_model", newest.passed_over)
    if not (path / "config.json").is_file():
        raise ConfigurationError(
            f"{short(path)} holds no policy: expected a run, a checkpoint, or a folder with config.json"
        )
    whole = path.resolve().parent
    if path.resolve().name == "pretrained_model" and checkpoint.is_checkpoint(whole):
        checkpoint.verify(whole)
    return FoundPolicy(path)

"""Where a policy lies: in a run, in a checkpoint, in a folder, on the hub, or nowhere, if it acts at random.

Of a run, its resolved settings say in which suite it learnt and how often it planned; evaluations take that over.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.compose import Settings, compose
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError, Task

RANDOM = "random"
"""Given instead of a policy: `vla_cl.rollout.random_policy.RandomPolicy`. A folder of this name is ``./random``."""

POLICY_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")

_CONFIG = "config.yaml"
_PARENTS = 3
_REPLAN = "evaluation.replan_every"
_CHOICE = "of_the_run"


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
        location: As of `vla_cl.evaluate.evaluate`.
        overrides: The user's, as of `vla_cl.compose.compose`.
        folders: As of `vla_cl.compose.compose`.

    Raises:
        ConfigurationError: As of `compose`; or the run's suite is in a package that ``plugins`` does not list: the
            run's own list does not count.
    """
    run = find_run(location)
    if run is None:
        return compose(overrides, root="evaluate", folders=folders)
    named = {item.lstrip("+~").partition("=")[0] for item in overrides}
    taken: list[str] = []
    shown: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        if "suite" not in named:
            from omegaconf import OmegaConf

            suite = run.settings["suite"]
            file = Path(temporary) / "suite" / f"{_CHOICE}.yaml"
            file.parent.mkdir()
            file.write_text(OmegaConf.to_yaml(OmegaConf.create(suite)))
            taken.append(f"suite={_CHOICE}")
            shown.append(f"suite={suite.get('name', suite['class'])}")
        replan_every = run.settings.get("evaluation", {}).get("replan_every")
        if _REPLAN not in named and replan_every is not None:
            taken.append(f"{_REPLAN}={replan_every}")
            shown.append(taken[-1])
        settings = compose([*taken, *overrides], root="evaluate", folders=[*folders, Path(temporary)])
    if "cameras" not in named and (cameras := run.settings.get("cameras")) is not None:
        settings["cameras"] = cameras
        shown.append(f"cameras={cameras}")
    if "suite" not in named:
        require_listed(run, "suite", settings["suite"]["class"], settings["plugins"])
    if shown:
        print(f"as in the run {run.root}: {', '.join(shown)}")
    return settings


def find_run(location: str) -> PastRun | None:
    """The run that a folder is, or lies in at most three levels deep; None if there is none.

    Raises:
        ConfigurationError: A ``config.yaml`` cannot be read.
    """
    for folder in _around(location):
        if (folder / _CONFIG).is_file():
            settings = _read(folder / _CONFIG)
            parts = [settings.get(name) for name in ("suite", "method")]
            if all(isinstance(part, dict) and "class" in part for part in parts) and "train_seed" in settings:
                return PastRun(folder, settings)
    return None


def require_listed(run: PastRun, what: str, kind: str, plugins: Sequence[str]) -> None:
    """Refuse a run's class that the user has not allowed.

    Raises:
        ConfigurationError: Its package is neither ours nor in ``plugins``.
    """
    package = str(kind).partition(":")[0].split(".")[0]
    if package not in ("vla_cl", *plugins):
        raise ConfigurationError(
            f"the {what} of the run {run.root} is {kind!r}, and its package is not listed; "
            f"if you trust it, add plugins=[{','.join((*plugins, package))}]"
        )


def tasks_of_run(location: str, available: Sequence[Task]) -> list[str]:
    """The tasks that the run around a policy was about, as far as this suite has them."""
    known = {task.id for task in available}
    for folder in _around(location):
        if (folder / "run.json").is_file():
            tasks: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())["tasks"]
            return [task["id"] for task in tasks if task["id"] in known]
    return []


def _around(location: str) -> tuple[Path, ...]:
    """The folder and those above it that may be its run's; none for what does not lie on this disk."""
    if location == RANDOM or not Path(location).exists():
        return ()
    folder = Path(location).resolve()
    return (folder, *folder.parents[:_PARENTS])


def _read(config: Path) -> Settings:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        content = OmegaConf.to_container(OmegaConf.load(config))
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{config} cannot be read ({' '.join(str(error).split())})") from error
    return {str(name): value for name, value in content.items()} if isinstance(content, dict) else {}


def policy_folder(location: str) -> Path:
    """The folder that LeRobot loads: of a run the newest checkpoint's, of a checkpoint its ``pretrained_model``.

    A policy on the hub is downloaded into the hub's cache, unless it lies there.

    Raises:
        ConfigurationError: The run has no checkpoint yet, or neither the disk nor the hub has such a policy.
    """
    path = Path(location)
    if (path / "pretrained_model").is_dir():
        return path / "pretrained_model"
    if (path / "config.yaml").is_file() or (path / "checkpoints").is_dir():
        from vla_cl import checkpoint

        newest = checkpoint.newest(path / "checkpoints")
        if newest is None:
            raise ConfigurationError(f"the run {path} has no whole checkpoint yet; let it learn its first task")
        return newest / "pretrained_model"
    if path.exists() and not (path / "config.json").is_file():
        raise ConfigurationError(f"{path} holds no policy: expected a run, a checkpoint, or a folder with config.json")
    return path if path.exists() else _from_hub(location)


def _from_hub(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ConfigurationError(
            f"{name!r} is neither a folder here nor a hub name like user/policy; or say {RANDOM!r} to act at random"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(POLICY_FILES), ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = harmless(" ".join(str(error).split()), 90)
        raise ConfigurationError(
            f"{name!r} is no folder here and cannot be had from the hub ({reason}); check the name, the connection "
            "and, for a private policy, `hf auth login`"
        ) from error

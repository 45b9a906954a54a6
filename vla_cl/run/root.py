"""The composition root: settings become parts, parts become a run.

`train` walks a stream: for each experience learn, remember, score the tasks met so far, write results and a
checkpoint. `collect_command` only records the stream's demonstrations.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.config.compose import Settings
from vla_cl.config.plugins import import_plugins
from vla_cl.data.cameras import Pairs
from vla_cl.data.run_data import remember_datasets
from vla_cl.data.source import Source
from vla_cl.interfaces import Family, Suite
from vla_cl.rollout.compatibility import skipped_rollouts
from vla_cl.run.check import Checked, check, look_at_suite, output_folder, run_name, use_threads
from vla_cl.run.family_check import CheckedFamily, check_family, is_robot, without_robot_settings
from vla_cl.run.folder import RunFolder
from vla_cl.run.location import find_run
from vla_cl.run.stream_sources import hold_out_of, sources
from vla_cl.run.tracking import Tracker
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, Stream, Task

if TYPE_CHECKING:
    from vla_cl.evaluation.held_out_episodes import HeldOutSettings

__all__ = ["collect_command", "demonstrations", "run_name", "sources", "train", "use_threads"]


def demonstrations(
    settings: Settings, suite: Suite, tasks: Sequence[Task], cameras: Pairs | None = None
) -> dict[str, list[Source]]:
    """Record what is not in the cache yet; the dataset of each task id, its cameras under the policy's names."""
    from vla_cl.rollout.collect import collect

    options = settings["demonstrations"]
    folder = Path(settings["cache_dir"]) / "demonstrations"
    roots = collect(suite, tasks, folder, **options)
    kept = hold_out_of(settings)
    return {
        task.id: [Source(root, instruction=task.instruction, cameras=cameras, hold_out=kept)]
        for task, root in zip(tasks, roots, strict=True)
    }


def collect_command(settings: Settings) -> list[Path]:
    """Record the demonstrations of a stream's tasks; the dataset folders."""
    import_plugins(settings["plugins"])
    found = sources(settings, metadata_only=True)
    if found.recorded is not None:
        raise ConfigurationError("this stream is made of recorded datasets; there is nothing to collect")
    look_at_suite(found)
    located = demonstrations(settings, found.own_suite, found.stream.tasks)
    return [location[0].root for location in located.values()]


def train(settings: Settings) -> Path:
    """Learn a stream; a run that was interrupted continues where it noted its place last.

    Returns:
        The run's folder.

    Raises:
        ConfigurationError: Something in the settings cannot be done.
    """
    return _train_robot(settings) if is_robot(settings) else _train_family(settings)


def _train_robot(settings: Settings) -> Path:
    # as runs of robots were written before there were other families, so that those continue
    settings = {key: value for key, value in settings.items() if key != "family"}
    checked = check(settings)
    checked.say()
    folder = RunFolder(output_folder(settings))
    if not folder.has_begun and (note := memory_left_behind(checked)) is not None:
        print(note, file=sys.stderr)
    with folder.open(settings):
        remember_datasets(folder.root, checked.found.roots, began=folder.has_begun)
        family = _robot(settings, checked, folder)
        _learn(settings, family, checked.found.stream, checked, folder)
    if not checked.found.evaluable and hold_out_of(settings) is None:
        print(skipped_rollouts(checked.found.suite))
    return folder.root


def _train_family(settings: Settings) -> Path:
    checked = check_family(settings)
    own = without_robot_settings(settings)
    folder = RunFolder(output_folder(settings))
    with folder.open(own):
        _learn(own, checked.family, checked.stream, checked, folder)
    return folder.root


def memory_left_behind(checked: Checked) -> str | None:
    """How the memory of the warm start's run is taken along, where a method with an empty one begins; None: no need."""
    from vla_cl.methods.remembering import RememberingMethod
    from vla_cl.run import checkpoint
    from vla_cl.storage.names import NOTES

    start, method = checked.policy.warm_start, checked.method
    if start is None or not isinstance(method, RememberingMethod) or method.reuses is not None:
        return None
    folder = Path(start).resolve().parent
    run = find_run(start)
    if run is None or not (folder / "cl_state" / "method.json").is_file():
        return None
    index = checkpoint.read_method(folder)[0].get("memory")
    if not isinstance(index, dict) or not index.keys() - {NOTES}:
        return None
    given = run.settings["method"].get("memory")
    opening = f"warm_start carries weights, the memory of {short(run.root, 90)} stays behind"
    if not isinstance(given, dict) or given.get("unit", "frame") == "frame":
        return f"{opening}; it holds single frames, which no other run can take along (docs/data.md)"
    return f"{opening}; take it along: vla-cl memory RUN --export FOLDER, and method.memory={{..., reuse: FOLDER}}"


def _robot(settings: Settings, checked: Checked, folder: RunFolder) -> Family:
    """The robot family of a run, what is missing of its demonstrations recorded."""
    found = checked.found
    recorded = found.recorded
    if recorded is None:
        recorded = demonstrations(settings, found.own_suite, found.stream.tasks, found.suite_cameras)
    from vla_cl.families.robot import RobotFamily

    frames, policy = Path(settings["cache_dir"]) / "frames", checked.policy
    where = policy, checked.evaluation, frames, folder.root
    return RobotFamily(found.suite, found.stream, recorded, *where, _held_out(settings))


def _held_out(settings: Settings) -> HeldOutSettings | None:
    """How episodes that are kept from training are scored on; None where none are."""
    from vla_cl.evaluation.held_out_episodes import HeldOutSettings

    given = settings.get("data") or {}
    if hold_out_of(settings) is None:
        return None
    return HeldOutSettings(int(given["held_out_frames"]), given["action_groups"])


def _learn(
    settings: Settings, family: Family, stream: Stream, checked: Checked | CheckedFamily, folder: RunFolder
) -> None:
    """Learn; this process is the only one that writes the folder."""
    use_threads(settings["threads"] or family.threads)

    from vla_cl.evaluation.plan import EvaluationPlan
    from vla_cl.run.continual import ContinualRun
    from vla_cl.run.summary import Identity

    chosen = checked.evaluation
    plan = EvaluationPlan(
        chosen.episodes, chosen.future_tasks, chosen.untrained, chosen.curve_points, chosen.curve_episodes
    )
    identity = Identity(run_name(settings), checked.method.name, settings["arrangement"])
    run = ContinualRun(identity, family, stream, checked.method, checked.training, plan, settings["train_seed"], folder)
    with Tracker(folder.root, settings["tracking"]["trackers"], settings["tracking"]["project"], settings) as tracker:
        run.go(tracker)

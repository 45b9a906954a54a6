"""The composition root: settings become parts, parts become a run.

`train` walks a stream: for each experience learn, remember, roll out on the tasks met so far, write results and a
checkpoint. Every other command of `vla_cl.cli` has its entry here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_cl.compose import Settings, build, checked_arguments
from vla_cl.data.source import Source
from vla_cl.data.streams import dataset_stream, suite_stream
from vla_cl.interfaces import Method, Suite
from vla_cl.rollout.evaluation import EvaluationSettings
from vla_cl.run_folder import RunFolder
from vla_cl.tracking import Tracker, check_trackers
from vla_cl.types import ConfigurationError, InterfaceSpec, Stream, Task


@dataclass
class Sources:
    """A stream and where the data of its tasks lie."""

    suite: Suite
    stream: Stream
    recorded: dict[str, list[Source]] | None  # of a stream of datasets; None: demonstrations are collected


def sources(settings: Settings) -> Sources:
    """Suite, stream and data of the settings; imports no simulator and no torch unless datasets are given.

    Raises:
        ConfigurationError: A task, a class or an argument is wrong.
    """
    suite = build(settings["suite"], Suite, settings["plugins"])
    stream, arrangement = settings["stream"], settings["arrangement"]
    if "datasets" in stream:
        found, recorded = dataset_stream(stream["name"], stream["datasets"], suite.tasks(), arrangement)
        return Sources(suite, found, recorded)
    if stream.get("suite", settings["suite"]["name"]) != settings["suite"]["name"]:
        raise ConfigurationError(
            f"stream {stream['name']!r} is made of tasks of suite {stream['suite']!r}, "
            f"but suite={settings['suite']['name']} was given; add suite={stream['suite']}"
        )
    available = suite.tasks()
    listed = stream.get("tasks") or ()
    names = [task.id for task in available] if listed == "all" else listed  # all: in the suite's own order
    found = suite_stream(stream["name"], available, names, stream.get("experiences") or (), arrangement)
    return Sources(suite, found, None)


def data_spec(found: Sources) -> InterfaceSpec:
    """Cameras and sizes of the first task's data."""
    if found.recorded is None:
        return found.suite.spec
    from vla_cl.data.dataset_folder import DatasetFolder

    return DatasetFolder(found.recorded[found.stream.tasks[0].id][0].root).spec


def demonstrations(settings: Settings, suite: Suite, tasks: Sequence[Task]) -> dict[str, list[Source]]:
    """Record what is not in the cache yet; the dataset of each task id."""
    from vla_cl.rollout.collect import collect

    options = settings["demonstrations"]
    folder = Path(settings["cache_dir"]) / "demonstrations"
    roots = collect(suite, tasks, folder, **options)
    return {task.id: [Source(root, instruction=task.instruction)] for task, root in zip(tasks, roots, strict=True)}


def collect_command(settings: Settings) -> list[Path]:
    """Record the demonstrations of a stream's tasks; the dataset folders."""
    found = sources(settings)
    if found.recorded is not None:
        raise ConfigurationError("this stream is made of recorded datasets; there is nothing to collect")
    located = demonstrations(settings, found.suite, found.stream.tasks)
    return [location[0].root for location in located.values()]


def run_name(settings: Settings) -> str:
    """The name given, or one made from stream and method."""
    what = settings["method"]["name"] if settings["arrangement"] == "sequential" else settings["arrangement"]
    return str(settings["name"] or f"{settings['stream']['name']}-{what}-seed{settings['train_seed']}")


def train(settings: Settings) -> Path:
    """Learn a stream; a run that was interrupted continues after its last whole experience.

    Returns:
        The run's folder.

    Raises:
        ConfigurationError: Something in the settings cannot be done.
    """
    found = sources(settings)
    evaluation = EvaluationSettings(**checked_arguments(EvaluationSettings, settings["evaluation"]))
    from vla_cl.train import TrainingSettings

    training = TrainingSettings(**checked_arguments(TrainingSettings, settings["training"]))
    method = build(settings["method"], Method, settings["plugins"])
    check_trackers(settings["tracking"]["trackers"])
    if found.recorded is not None and settings["stream"].get("check_orientation", True):
        from vla_cl.rollout.orientation import check_orientation

        check_orientation(found.suite, found.stream.tasks, found.recorded)
    from vla_cl.policy_settings import policy_settings

    policy = policy_settings(settings, data_spec(found), any(task.max_steps for task in found.stream.tasks))
    folder = RunFolder(Path(settings["output_dir"] or Path("outputs") / run_name(settings)))
    folder.open(settings)
    recorded = found.recorded or demonstrations(settings, found.suite, found.stream.tasks)
    use_threads(settings["threads"])

    from vla_cl.continual import ContinualRun, Identity

    identity = Identity(
        run_name(settings), method.name, policy.kind, settings["suite"]["name"], settings["arrangement"]
    )
    run = ContinualRun(
        identity,
        found.suite,
        found.stream,
        recorded,
        method,
        policy,
        training,
        evaluation,
        settings["train_seed"],
        Path(settings["cache_dir"]) / "frames",
        folder,
    )
    with Tracker(folder.root, settings["tracking"]["trackers"], settings["tracking"]["project"], settings) as tracker:
        run.go(tracker)
    return folder.root


def use_threads(count: int) -> None:
    """Torch threads; 0 leaves torch's choice.

    Raises:
        ConfigurationError: The number is negative.
    """
    if count < 0:
        raise ConfigurationError(f"threads must be 0 (torch's choice) or more; got {count}")
    if count:
        import torch

        torch.set_num_threads(count)

"""The composition root: settings become parts, parts become a run.

`train` walks a stream: for each experience learn, remember, roll out on the tasks met so far, write results and a
checkpoint. Every other command of `vla_cl.cli` has its entry here too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from vla_cl.compose import Settings, build, checked_arguments, nearest
from vla_cl.data.source import Source
from vla_cl.data.streams import dataset_stream, named_tasks, suite_stream
from vla_cl.files import write_json
from vla_cl.interfaces import Method, Suite
from vla_cl.metrics import wilson_interval
from vla_cl.rollout.evaluation import EvaluationSettings
from vla_cl.run_folder import RunFolder, versions
from vla_cl.tracking import Tracker, check_trackers
from vla_cl.types import ConfigurationError, Split, Stream, Task

NORMALISATIONS = ("first_task", "checkpoint")


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
    found = suite_stream(
        stream["name"], suite.tasks(), stream.get("tasks") or (), stream.get("experiences") or (), arrangement
    )
    return Sources(suite, found, None)


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
    if settings["normalisation"] not in NORMALISATIONS:
        hint = nearest(settings["normalisation"], NORMALISATIONS)
        raise ConfigurationError(f"unknown normalisation {settings['normalisation']!r}; {hint}")
    evaluation = EvaluationSettings(**checked_arguments(EvaluationSettings, settings["evaluation"]))
    from vla_cl.train import TrainingSettings

    training = TrainingSettings(**checked_arguments(TrainingSettings, settings["training"]))
    method = build(settings["method"], Method, settings["plugins"])
    check_trackers(settings["tracking"]["trackers"])
    folder = RunFolder(Path(settings["output_dir"] or Path("outputs") / run_name(settings)))
    folder.open(settings)
    recorded = found.recorded or demonstrations(settings, found.suite, found.stream.tasks)
    use_threads(settings["threads"])

    from vla_cl.continual import ContinualRun, Identity, PolicySettings, choose_device

    fields = dict(settings["policy"])
    policy = PolicySettings(
        kind=fields.pop("type"),
        fields=fields,
        warm_start=settings["warm_start"],
        normalisation=settings["normalisation"],
        device=choose_device(settings["device"]),
    )
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


def evaluate(location: str, settings: Settings) -> Path:
    """Roll a policy out and write the episode table, a summary and videos.

    Args:
        location: A run's folder (its newest checkpoint), a checkpoint, a LeRobot policy folder, or a name on the hub.
        settings: Composed from ``conf/evaluate.yaml``.

    Returns:
        The folder with the results.

    Raises:
        ConfigurationError: The policy cannot be loaded or does not fit the suite.
    """
    suite = build(settings["suite"], Suite, settings["plugins"])
    evaluation = EvaluationSettings(**checked_arguments(EvaluationSettings, settings["evaluation"]))
    tasks = named_tasks(settings["tasks"] or _tasks_of_run(Path(location)), suite.tasks()) or suite.tasks()
    if settings["split"] not in get_args(Split):
        raise ConfigurationError(f"unknown split {settings['split']!r}; {nearest(settings['split'], get_args(Split))}")
    folder = Path(settings["output_dir"] or Path("outputs") / f"evaluate-{settings['suite']['name']}")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty; give output_dir=<a new folder>")
    use_threads(settings["threads"])

    from vla_cl.continual import choose_device, evaluate_policy
    from vla_cl.models.vla import VlaModel

    model = VlaModel.load(policy_folder(location), choose_device(settings["device"]))
    table = evaluate_policy(model, suite, tasks, evaluation, settings["split"], folder)
    table.write(folder / "episodes.parquet")
    cells = table.success_cells(-1, settings["split"])
    for task in tasks:
        cell = cells[task.id]
        low, high = wilson_interval(round(cell.success * cell.episodes), cell.episodes)
        errors = f", {cell.errors} errors" if cell.errors else ""
        print(f"{task.id:40s} {cell.success:6.1%}  [{low:.1%}, {high:.1%}]  {cell.episodes} episodes{errors}")
    mean = sum(cell.success for cell in cells.values()) / len(cells)
    print(f"{'mean':40s} {mean:6.1%}")
    summary = {"policy": location, "mean_success": mean, "versions": versions()}
    write_json(folder / "summary.json", summary | {"tasks": {task: asdict(cell) for task, cell in cells.items()}})
    return folder


def policy_folder(location: str) -> str:
    """The folder that LeRobot loads: of a run the newest checkpoint's, of a checkpoint its ``pretrained_model``.

    Raises:
        ConfigurationError: The run has no checkpoint yet, or a local path holds no policy.
    """
    path = Path(location)
    if (path / "pretrained_model").is_dir():
        return str(path / "pretrained_model")
    if (path / "config.yaml").is_file() or (path / "checkpoints").is_dir():
        from vla_cl import checkpoint

        newest = checkpoint.newest(path / "checkpoints")
        if newest is None:
            raise ConfigurationError(f"the run {path} has no whole checkpoint yet; let it learn its first task")
        return str(newest / "pretrained_model")
    if path.exists() and not (path / "config.json").is_file():
        raise ConfigurationError(f"{path} holds no policy: expected a run, a checkpoint, or a folder with config.json")
    if not path.exists() and location.count("/") != 1:
        raise ConfigurationError(f"{location!r} is neither a folder here nor a hub name like user/policy")
    return location


def _tasks_of_run(folder: Path) -> list[str]:
    for candidate in (folder, *folder.parents[:3]):
        if (candidate / "run.json").is_file():
            return [task["id"] for task in json.loads((candidate / "run.json").read_text())["tasks"]]
    return []

"""What a run learns: suite, stream, and where the data of its tasks lie. Settings become these three, and no more.

A stream says which tasks in which order. Where their data come from is another setting: recorded datasets
(``data.datasets``, or ``stream.datasets`` of a stream that is made of them), or else the suite's own demonstrations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_cl.config.compose import Settings, build
from vla_cl.data.cameras import Camera, Pairs, parse_cameras, suite_cameras
from vla_cl.data.hub import HubDataset
from vla_cl.data.location import dataset_roots, find_datasets
from vla_cl.data.recorded import Recorded, evaluable, learnt_together, matched, recorded_tasks, sources_of
from vla_cl.data.source import HoldOut, Source
from vla_cl.data.streams import RecordedStream, recorded_stream, suite_stream
from vla_cl.interfaces import Suite
from vla_cl.rollout.renamed_suite import RenamedSuite
from vla_cl.run.location import find_policy
from vla_cl.trust.reading import read_json_object
from vla_cl.types import ConfigurationError, Stream, Task


@dataclass(frozen=True)
class Sources:
    """A stream and where the data of its tasks lie.

    Attributes:
        suite: Where tasks are rolled out, its cameras under the policy's names.
        own_suite: The suite under its own camera names, in which demonstrations are recorded.
        stream: What is learnt.
        recorded: The data of each task id; None: demonstrations are collected.
        suite_cameras: The policy's and the suite's names of the cameras; None: all, by their own names.
        roots: Every dataset that was named, in order.
        notes: One sentence for whatever somebody should know before the run starts.
        remote: The datasets of the hub of which only the metadata are here.
    """

    suite: Suite
    own_suite: Suite
    stream: Stream
    recorded: dict[str, list[Source]] | None
    suite_cameras: Pairs | None = None
    roots: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    remote: tuple[HubDataset, ...] = ()

    @property
    def evaluable(self) -> tuple[Task, ...]:
        """The tasks of the stream that the suite has."""
        known = {task.id for task in self.suite.tasks()}
        return tuple(task for task in self.stream.tasks if task.id in known)


def sources(settings: Settings, metadata_only: bool = False) -> Sources:
    """Suite, stream and data of the settings; imports no simulator and no torch unless datasets are given.

    Args:
        settings: Composed from ``conf/config.yaml``.
        metadata_only: Download no more than the metadata of datasets that lie on the hub, and believe them.

    Raises:
        ConfigurationError: A task, a class, a dataset, a camera or an argument is wrong.
    """
    if (family := settings["stream"].get("family", "robot")) != "robot":
        raise ConfigurationError(
            f"stream {settings['stream']['name']!r} is of the family {family!r}, which brings its own data; only "
            "vla-cl train and vla-cl check take it"
        )
    own = build(settings["suite"], Suite, settings["plugins"])
    wanted = parse_cameras(settings.get("cameras"))
    expected = expected_cameras(settings.get("warm_start") if wanted else None, own)
    pairs = renamed_cameras(own, wanted, expected)
    suite = RenamedSuite(own, pairs) if pairs else own
    own_stream = None if "datasets" in settings["stream"] else _stream_of_suite(settings, own)
    given = settings.get("data") or {}
    named = [("data.datasets", given.get("datasets"))]
    if own_stream is None:
        named.insert(0, ("stream.datasets", settings["stream"]["datasets"]))
    roots, remote = _located(named, metadata_only)
    if own_stream is not None and not roots:
        return Sources(suite, own, own_stream, None, pairs)
    declared = {dataset.root for dataset in remote}
    recorded = recorded_tasks(roots, wanted, expected, given.get("same_instruction", "merge"), declared)
    if own_stream is None:
        found = _stream_of_datasets(settings, suite, recorded)
    else:
        wanted_ids = {task.id for task in own_stream.tasks}
        together = learnt_together(item for item in recorded.tasks if item.task.id in wanted_ids)
        found = RecordedStream(own_stream, sources_of(own_stream.tasks, recorded), (*recorded.notes, *together))
    kept = hold_out_of(settings)
    learnt = {task: [replace(source, hold_out=kept) for source in listed] for task, listed in found.sources.items()}
    return Sources(suite, own, found.stream, learnt, pairs, tuple(roots), found.notes, remote)


def hold_out_of(settings: Settings) -> HoldOut | None:
    """Which episodes of each task the settings keep from training; None: none. Runs of before had no such setting."""
    given = settings.get("data") or {}
    amount = given.get("held_out", 0)
    return HoldOut(float(amount), int(given.get("held_out_seed", 0))) if amount else None


def _located(named: Sequence[tuple[str, object]], metadata_only: bool) -> tuple[list[Path], tuple[HubDataset, ...]]:
    """The folders of all datasets, and those that have only metadata there."""
    if not metadata_only:
        return dataset_roots(named), ()
    places = find_datasets(named)
    return [place.root for place in places], tuple(place.remote for place in places if place.remote is not None)


def under_policy_names(suite: Suite, cameras: object, policy: str | None) -> Suite:
    """A suite whose cameras have the names that a policy knows.

    Args:
        suite: The suite.
        cameras: The setting.
        policy: Where the policy lies, which short names in the setting may stand for cameras of; None: nowhere.

    Raises:
        ConfigurationError: The setting names a camera that the suite lacks.
    """
    wanted = parse_cameras(cameras)
    pairs = renamed_cameras(suite, wanted, expected_cameras(policy if wanted else None, suite))
    return RenamedSuite(suite, pairs) if pairs else suite


def renamed_cameras(suite: Suite, wanted: Sequence[Camera], expected: Sequence[str]) -> Pairs | None:
    """The suite's cameras under the policy's names; None where nothing is renamed, or there is no suite.

    Raises:
        ConfigurationError: The suite lacks a camera.
    """
    if not wanted or not suite.tasks():
        return None
    return suite_cameras(wanted, suite.spec.cameras, f"suite {suite.name!r}", expected)


def expected_cameras(warm_start: str | None, suite: Suite) -> tuple[str, ...]:
    """Camera names that short new names in ``cameras`` may stand for: those of the warm start, else of the suite."""
    if warm_start is None:
        return tuple(suite.spec.cameras)
    config = find_policy(str(warm_start)).folder / "config.json"
    content = read_json_object(config, "the configuration of the warm start", "give the folder of a LeRobot policy")
    inputs = content.get("input_features")
    return tuple(map(str, inputs)) if isinstance(inputs, dict) else ()


def _stream_of_datasets(settings: Settings, suite: Suite, recorded: Recorded) -> RecordedStream:
    stream, available = settings["stream"], suite.tasks()
    recorded = matched(recorded, available, suite.name)
    found = recorded_stream(
        stream["name"],
        recorded,
        _listed(stream.get("tasks"), "stream.tasks"),
        _experiences(stream),
        settings["arrangement"],
    )
    if not available:
        return found
    sentence = evaluable(found.stream.tasks, available, suite.name)
    return RecordedStream(found.stream, found.sources, (*found.notes, *([sentence] if sentence else [])))


def _stream_of_suite(settings: Settings, suite: Suite) -> Stream:
    stream = settings["stream"]
    if stream.get("suite", suite.name) != suite.name:
        raise ConfigurationError(
            f"stream {stream['name']!r} is made of tasks of suite {stream['suite']!r}, "
            f"but suite={suite.name} was given; add suite={stream['suite']}"
        )
    return stream_of(stream, suite.tasks(), settings["arrangement"])


def stream_of(stream: Mapping[str, Any], available: Sequence[Task], arrangement: str) -> Stream:
    """A stream over given tasks.

    Args:
        stream: The settings ``stream``: name, and tasks (``all``: in the order given) or experiences.
        available: The tasks that there are.
        arrangement: ``sequential``, ``joint`` or ``independent``.

    Raises:
        ConfigurationError: A task is unknown, or there is nothing to learn.
    """
    listed = stream.get("tasks")
    names = [task.id for task in available] if listed == "all" else _listed(listed, "stream.tasks")
    return suite_stream(stream["name"], available, names, _experiences(stream), arrangement)


def _listed(value: object, setting: str) -> list[str]:
    listed = [value] if isinstance(value, str) else (value or [])
    if not isinstance(listed, Sequence) or not all(isinstance(item, str | int | float) for item in listed):
        raise ConfigurationError(f"{setting} must be a list of names or instructions; got {value!r}"[:290])
    return [str(item) for item in listed]


def _experiences(stream: Mapping[str, Any]) -> list[Mapping[str, object]]:
    listed = stream.get("experiences") or []
    if not isinstance(listed, Sequence) or not all(isinstance(item, Mapping) for item in listed):
        raise ConfigurationError(
            f"stream.experiences must be a list like [{{name: first, tasks: [...]}}]; got {listed!r}"[:290]
        )
    return list(listed)

"""The part of the pre-flight that is about recorded data: each dataset by itself, all together, and with the suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.config.compose import Settings
from vla_cl.data.agreement import same_rate
from vla_cl.run.stream_sources import Sources, sources
from vla_cl.types import ConfigurationError, InterfaceSpec

if TYPE_CHECKING:
    from vla_cl.data.preflight import DatasetReport


@dataclass(frozen=True)
class Examined:
    """What was found in the data of a run.

    Attributes:
        found: Suite, stream and data.
        spec: What the policy will learn from: what all datasets hold together, or what the suite records.
        reports: What was found in each dataset; empty where demonstrations are collected.
        notes: One sentence for whatever somebody should know before the run starts.
    """

    found: Sources
    spec: InterfaceSpec
    reports: tuple[DatasetReport, ...] = ()
    notes: tuple[str, ...] = ()


def check_data(settings: Settings) -> Examined:
    """Suite, stream and data of a run, with what was found in each dataset; imports no torch.

    Raises:
        ConfigurationError: The first thing that is wrong.
    """
    return examine(settings, sources(settings))


def examine(settings: Settings, found: Sources) -> Examined:
    """Every dataset by itself, and all of them together; of what is on the hub yet, what its metadata declare.

    Raises:
        ConfigurationError: The first thing that is wrong.
    """
    if found.recorded is None:
        return Examined(found, found.suite.spec, notes=found.notes)
    from vla_cl.data.declared import declared_report
    from vla_cl.data.joints import other_names, require_same_order
    from vla_cl.data.preflight import inspect_dataset, require_alike, require_distinct

    first = {source.root: source for listed in found.recorded.values() for source in listed}
    cache = Path(settings["cache_dir"]) / "frames"
    declared = {dataset.root for dataset in found.remote}
    options = settings.get("data") or {}
    check_fps = options.get("check_fps", True)
    reports = tuple(
        declared_report(root, source.cameras)
        if root in declared
        else inspect_dataset(root, source.cameras, cache, check_fps)
        for root, source in first.items()
    )
    spec = require_alike(reports, check_fps)
    require_same_order(reports)
    require_distinct(reports)
    if not declared:
        _require_held_out(found)
    notes = [*found.notes, *(note for report in reports for note in report.notes), *other_names(reports)]
    if found.evaluable:
        if check_fps:
            _require_rate(found, reports)
        wanted = options.get("check_orientation", True) and settings["stream"].get("check_orientation", True)
        if wanted and not declared:
            from vla_cl.rollout.orientation import check_orientation

            check_orientation(found.suite, found.stream.tasks, found.recorded, orientation_setting(settings))
    return Examined(found, spec, reports, tuple(notes))


def orientation_setting(settings: Settings) -> str:
    """Which setting leaves the comparison of pictures out."""
    return "stream.check_orientation" if "check_orientation" in settings["stream"] else "data.check_orientation"


def _require_held_out(found: Sources) -> None:
    """Every task needs more episodes than are kept from training."""
    from vla_cl.data.dataset_folder import DatasetFolder
    from vla_cl.data.held_out import held_out_episodes

    for listed in (found.recorded or {}).values():
        for source in listed:
            if source.hold_out is not None:
                held_out_episodes(DatasetFolder(source.root), source)


def _require_rate(found: Sources, reports: Sequence[DatasetReport]) -> None:
    """Data of one rate, acted out at another, move the arm too fast or too slowly."""
    suite = found.suite.spec
    of = {report.root: report for report in reports}
    for task in found.evaluable:
        for source in (found.recorded or {})[task.id]:
            report = of[source.root]
            if suite.fps and not same_rate(report.fps, suite.fps):
                raise ConfigurationError(
                    f"the dataset {report.shown} has {report.fps:g} frames a second, suite {found.suite.name!r} takes "
                    f"{suite.fps:g} actions a second, so every movement would have another speed; use data of "
                    f"{suite.fps:g} fps, suite=none, or data.check_fps=false to accept it"
                )

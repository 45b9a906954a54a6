"""What is known of runs besides their scores: where they come from, settings, versions, and a line of outline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import UNDEFINED, duration
from vla_cl.report.scale import Scale
from vla_cl.report.svg import short_number


@dataclass(frozen=True)
class FactTable:
    """A table with one column per run."""

    rows: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def alike(self) -> tuple[tuple[str, str], ...]:
        """Name and text of what is the same in all runs."""
        return tuple((name, texts[0]) for name, texts in self.rows if len(set(texts)) == 1)

    @property
    def differing(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What is not."""
        return tuple((name, texts) for name, texts in self.rows if len(set(texts)) > 1)


def facts(runs: Sequence[RunRecord]) -> FactTable:
    """Where each run comes from: stream, policy, seeds, machine, durations."""
    rows: dict[str, list[str]] = {}
    for index, run in enumerate(runs):
        for name, text in _facts_of(run).items():
            rows.setdefault(name, [UNDEFINED] * len(runs))[index] = text
    return FactTable(tuple((name, tuple(texts)) for name, texts in rows.items()))


def _facts_of(run: RunRecord) -> dict[str, str]:
    """Name and text of every fact that ``run.json`` gives."""
    texts = {"folder": str(run.folder)}
    for key in ("name", "method", "stream", "arrangement", "family", "suite", "policy", "render_profile", "status"):
        if key in run.info:
            texts[key.replace("_", " ")] = str(run.info[key])
    if isinstance(run.info.get("parameters"), int):
        texts["parameters"] = short_number(run.info["parameters"])
    for group in ("seeds", "machine"):
        for key, value in _mapping(run.info.get(group)).items():
            texts[str(key).replace("_", " ")] = str(value)
    for key, value in _mapping(run.info.get("seconds")).items():
        texts[f"time, {key}"] = duration(value)
    return texts


def outline(runs: Sequence[RunRecord], scale: Scale) -> list[str]:
    """What a reader asks first: steps, trials, seeds, parameters; one text each, with "to" where runs differ."""
    steps = [run.info["steps"] for run in runs if isinstance(run.info.get("steps"), int | float)]
    counts = [
        int(count) for run in runs if run.matrix is not None and run.matrix.counts is not None
        for count in run.matrix.counts.ravel() if count
    ]  # fmt: skip
    parameters = [run.info["parameters"] for run in runs if isinstance(run.info.get("parameters"), int | float)]
    seeds = sorted({seed for run in runs if (seed := run.train_seed) is not None})
    texts = []
    if steps:
        texts.append(f"{_between(steps)} training steps" if max(steps) != 1 else "1 training step")
    if counts:
        texts.append(f"{_between(counts)} {scale.trials} per cell")
    if seeds:
        texts.append(f"training seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    if parameters:
        texts.append(f"{_between(parameters)} parameters")
    return texts


def _between(values: Sequence[float]) -> str:
    low, high = short_number(min(values)), short_number(max(values))
    return low if low == high else f"{low} to {high}"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def versions(runs: Sequence[RunRecord]) -> FactTable:
    """Version of every package in every run."""
    names = dict.fromkeys(name for run in runs for name in _mapping(run.info.get("versions")))
    return FactTable(
        tuple(
            (name, tuple(str(_mapping(run.info.get("versions")).get(name, UNDEFINED)) for run in runs))
            for name in names
        )
    )

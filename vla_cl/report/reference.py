"""Which run among several is the single-task reference of another, and the metrics that are measured against it.

The reference of Continual World's forward transfer is a policy that learns each task alone by plain fine-tuning. So it
is a finished independent run of the method ``sequential``, over the same tasks, whose learning curves cover as many
steps. The order in which runs are given does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_cl.metrics import Estimate, ScoreMatrix, compute_all
from vla_cl.metrics.reasons import NO_REFERENCE, why_unfit
from vla_cl.report.load import RunRecord
from vla_cl.report.run_settings import flat_settings, is_compared

AGAINST_REFERENCE = "cw_forward_transfer"
"""The metric that needs a reference."""

_PLAIN = "sequential"
_OF_THE_METHOD = ("method", "arrangement")


@dataclass(frozen=True)
class Reference:
    """The reference of one run.

    Attributes:
        run: None if there is none.
        why: Why there is none, in words; empty where there is one.
        others: Runs that fit as well but measured something else, so that the choice matters.
    """

    run: RunRecord | None
    why: str = ""
    others: tuple[RunRecord, ...] = ()


def estimates_of(run: RunRecord, runs: Sequence[RunRecord]) -> tuple[dict[str, Estimate], Reference]:
    """All metrics of a run, with the reference that is among the others; no metrics while nothing is evaluated."""
    if run.matrix is None:
        return {}, Reference(None)
    reference = reference_of(run, runs)
    found = compute_all(run.matrix, None if reference.run is None else reference.run.matrix)
    transfer = found[AGAINST_REFERENCE]
    if reference.run is None and transfer.why == NO_REFERENCE:
        found[AGAINST_REFERENCE] = replace(transfer, why=reference.why)
    return found, reference


def reference_of(run: RunRecord, runs: Sequence[RunRecord]) -> Reference:
    """The plain independent run of the same tasks that fits best: the same settings, then the same training seed.

    Of several that fit equally well, the one with the lowest training seed is taken, then the first folder by name.
    """
    if run.matrix is None or run.matrix.positions is None:
        return Reference(None, "the formula needs one task per experience")
    if run.arrangement == "independent":
        return Reference(None, "each task is learnt alone, so nothing is transferred")
    alone = [
        other
        for other in runs
        if other is not run and other.arrangement == "independent" and set(other.tasks) == set(run.tasks)
    ]
    reasons = {other.label: _why_not(run, run.matrix, other) for other in alone}
    fitting = [other for other in alone if not reasons[other.label]]
    if not fitting:
        return Reference(None, "; ".join(sorted(reasons.values())) or NO_REFERENCE)
    fitting.sort(key=lambda other: (*_distance(run, other), str(_train_seed(other)).zfill(20), str(other.folder)))
    best = fitting[0]
    equal = [other for other in fitting[1:] if _distance(run, other) == _distance(run, best)]
    return Reference(best, others=tuple(other for other in equal if not _same_curves(best, other)))


def reference_notes(references: Mapping[str, Reference], estimates: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """A sentence for every reference that was used.

    Args:
        references: Run label to its reference.
        estimates: Run label to its metrics.
    """
    used: dict[str, tuple[Reference, list[str]]] = {}
    for label, reference in references.items():
        transfer = estimates[label].get(AGAINST_REFERENCE)
        if reference.run is not None and transfer is not None and not math.isnan(transfer.value):
            others = "".join(other.label for other in reference.others)
            used.setdefault(f"{reference.run.label}{others}", (reference, []))[1].append(label)
    return [_note(reference, labels) for reference, labels in used.values()]


def _note(reference: Reference, labels: Sequence[str]) -> str:
    assert reference.run is not None  # the caller looked
    folder = f"{reference.run.folder.parent.name}/{reference.run.folder.name}"
    taken = reference.run.label if folder in reference.run.label else f"{reference.run.label} ({folder})"
    note = f"{AGAINST_REFERENCE} of {', '.join(labels)} is measured against {taken}"
    if not reference.others:
        return f"{note}."
    others = ", ".join(other.label for other in reference.others)
    return f"{note}; {others} would fit as well and measured something else: leave out what is not meant."


def _why_not(run: RunRecord, matrix: ScoreMatrix, other: RunRecord) -> str:
    """Why an independent run is not the reference, in words; empty if it can be."""
    method = str(other.info["method"])
    if method != _PLAIN:
        return f"{other.label} learns with {method}, and the reference must be plain (method={_PLAIN})"
    if not other.finished or other.matrix is None:
        return f"{other.label} is not finished"
    if other.info["format"] != run.info["format"]:
        return f"{other.label} was written by another version of vla-cl, which may train otherwise"
    why = why_unfit(matrix, other.matrix)
    return f"{other.label} does not fit: {why}" if why else ""


def _distance(run: RunRecord, other: RunRecord) -> tuple[int, bool]:
    """In how many settings two runs differ, besides method and arrangement; whether they have another training seed."""
    own, theirs = (
        {key: value for key, value in flat_settings(one).items() if is_compared(key, _OF_THE_METHOD)}
        for one in (run, other)
    )
    differing = sum(own.get(key) != theirs.get(key) for key in own.keys() | theirs.keys())
    return differing, _train_seed(run) != _train_seed(other)


def _train_seed(run: RunRecord) -> object:
    seeds = run.info.get("seeds")
    return seeds.get("train_seed") if isinstance(seeds, Mapping) else None


def _same_curves(one: RunRecord, other: RunRecord) -> bool:
    """Whether two references measured the same."""
    if one.matrix is None or other.matrix is None:
        return one.matrix is other.matrix
    curves = one.matrix.curves, other.matrix.curves
    return curves[0].keys() == curves[1].keys() and all(
        np.array_equal(curve, curves[1][task], equal_nan=True) for task, curve in curves[0].items()
    )

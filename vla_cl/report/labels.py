"""What runs are called in reports: method or reference, and as few further words as tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_cl.trust.text import harmless, short


def run_labels(infos: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[str]:
    """The shortest names that tell the runs apart: method or reference, then the run's name, its folder, its path.

    One line each; a number stands behind what would still be the same.
    """
    methods = [method_label(info) for info in infos]
    besides: tuple[Sequence[object], ...] = (
        [info["name"] for info in infos],
        [f"{folder.parent.name}/{folder.name}" for folder in folders],
        [short(folder) for folder in folders],
    )
    labels = methods
    for words in besides:
        labels = [
            label if labels.count(label) == 1 else harmless(f"{method} ({word})")
            for label, method, word in zip(labels, methods, words, strict=True)
        ]
    return [
        label if labels.count(label) == 1 else f"{label} [{number}]" for number, label in enumerate(labels, start=1)
    ]


def method_label(info: Mapping[str, Any]) -> str:
    """``er``; ``independent er`` where tasks are not learnt in sequence; ``independent`` for plain fine-tuning.

    ``packnet (told the task)`` where the model is told which task it is evaluated on: others have to find out.
    """
    method, arrangement = str(info["method"]), str(info["arrangement"])
    if info.get("told_the_task"):
        method += " (told the task)"
    if method == "sequential":
        return arrangement
    return harmless(method if arrangement == "sequential" else f"{arrangement} {method}")

"""Writes small run folders in the format of real ones, with episodes, training curves and videos that play."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd

TASKS = ("metaworld/drawer-open", "metaworld/button-press-topdown", "metaworld/window-close")
Cells = Sequence[Sequence[float | None]]


@dataclass
class GeneratedRun:
    """What a generated run contains; every field can be overridden by a test."""

    name: str = "sequential"
    method: str = "sequential"
    arrangement: str = "sequential"
    tasks: tuple[str, ...] = TASKS
    passes: int = 1  # how often the tasks are learnt, all of them before any comes again
    success: Cells = ((0.95, None, None), (0.2, 0.9, None), (0.05, 0.15, 1.0))
    episodes_per_cell: int = 20
    steps_per_experience: int = 600
    status: str = "finished"
    baseline: Sequence[float | None] | None = None
    curve_points: int = 0
    videos: int = 2  # per cell: at most one success and one failure
    error: str | None = None  # message of one crashed episode of the first task
    memory_bytes: int = 0
    train_seconds: float = 141.0
    extra: Mapping[str, Any] = field(default_factory=dict)  # overrides for run.json

    def experience_tasks(self) -> list[list[str]]:
        """The tasks of every experience."""
        return [list(self.tasks)] if self.arrangement == "joint" else [[task] for task in self.tasks * self.passes]

    def write(self, folder: Path) -> Path:
        """Write the run folder and return it."""
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(self._run_json()))
        (folder / "config.yaml").write_text(self._config())
        (folder / "matrix.json").write_text(json.dumps(self._matrix_json()))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self._training_lines()))
        rows = self._episode_rows(folder)
        pd.DataFrame(rows).to_parquet(folder / "episodes.parquet")
        return folder

    def _names(self) -> list[str]:
        return [task.split("/", 1)[-1] for task in self.tasks]

    def _experience_names(self) -> list[str]:
        if self.arrangement == "joint":
            return ["all-tasks"]
        return [name if turn == 0 else f"{name}-{turn + 1}" for turn in range(self.passes) for name in self._names()]

    def _run_json(self) -> dict[str, Any]:
        experiences = zip(self._experience_names(), self.experience_tasks(), strict=True)
        return {
            "format": 1,
            "name": self.name,
            "method": self.method,
            "stream": "metaworld_demo",
            "policy": "nano_vla",
            "suite": "metaworld",
            "arrangement": self.arrangement,
            "tasks": [
                {"id": task, "instruction": name.replace("-", " ")}
                for task, name in zip(self.tasks, self._names(), strict=True)
            ],
            "experiences": [{"name": name, "tasks": tasks} for name, tasks in experiences],
            "seeds": {"train_seed": 7, "eval_seed": 11},
            "render_profile": "fast",
            "versions": {"vla-cl": "0.1.0", "lerobot": "0.6.1", "torch": "2.10.0", "mujoco": "3.8.1"},
            "machine": {"cpu": "Example CPU @ 2.5 GHz", "cores": 2, "memory_gib": 24.0, "device": "cpu"},
            "seconds": {
                "train": self.train_seconds,
                "evaluate": 55.0,
                "total": self.train_seconds + 60.0,
            },
            "memory_bytes": self.memory_bytes,
            "parameters": 1_412_345,
            "status": self.status,
            **self.extra,
        }

    def _config(self) -> str:
        return (
            f"name: {self.name}\nmethod:\n  name: {self.method}\n  memory_bytes: {self.memory_bytes}\n"
            f"stream: metaworld_demo\narrangement: {self.arrangement}\ntrain:\n"
            f"  steps: {self.steps_per_experience}\n  batch_size: 64\n  learning_rate: 0.0005\n"
        )

    def _curves(self) -> dict[str, list[list[float]]]:
        curves: dict[str, list[list[float]]] = {}
        stream = self.tasks * self.passes
        for position, task in enumerate(stream if self.arrangement == "joint" else stream[: len(self.success)]):
            row = 0 if self.arrangement == "joint" else position
            final = self.success[row][self.tasks.index(task)]
            start = row * self.steps_per_experience
            curves.setdefault(task, [])
            curves[task] += [
                [
                    start + self.steps_per_experience * point // self.curve_points,
                    (final or 0.0) * point / self.curve_points,
                ]
                for point in range(self.curve_points + 1)
            ]
        return curves

    def _matrix_json(self) -> dict[str, Any]:
        matrix: dict[str, Any] = {
            "tasks": list(self.tasks),
            "experiences": self._experience_names()[: len(self.success)],
            "success": [list(row) for row in self.success],
            "episodes": [[0 if cell is None else self.episodes_per_cell for cell in row] for row in self.success],
            "curves": self._curves() if self.curve_points else {},
        }
        if self.passes > 1:
            matrix["stream"] = self.experience_tasks()
            rows = {task: [] for task in self.tasks}
            for row, (task,) in enumerate(self.experience_tasks()[: len(self.success)]):
                rows[task] += [row] * (self.curve_points + 1)
            matrix["curve_experiences"] = rows if self.curve_points else {}
        if self.baseline is not None:
            matrix["baseline"] = list(self.baseline)
        return matrix

    def _training_lines(self) -> list[dict[str, Any]]:
        generator = random.Random(3)
        lines = []
        for experience in range(len(self.success)):
            for step in range(0, self.steps_per_experience, 5):
                total = experience * self.steps_per_experience + step
                loss = 0.04 + 0.9 * math.exp(-step / 90) * generator.uniform(0.8, 1.25) + generator.uniform(0, 0.02)
                lines.append(
                    {
                        "time": 1.79e9 + total / 5,
                        "experience": experience,
                        "step": total,
                        "phase": "learn",
                        "loss": loss,
                    }
                )
        return lines

    def _episode_rows(self, folder: Path) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for experience, cells in enumerate(self.success):
            for task, cell in zip(self.tasks, cells, strict=True):
                if cell is not None:
                    rows += self._rows_of_cell(folder, experience, task, cell)
        if self.error is not None:
            rows.append(rows[0] | {"initial_state": 1999, "outcome": "error", "error": self.error, "video": None})
        return rows

    def _rows_of_cell(self, folder: Path, experience: int, task: str, success: float) -> list[dict[str, Any]]:
        successes = round(success * self.episodes_per_cell)
        rows = []
        for state in range(self.episodes_per_cell):
            outcome = "success" if state < successes else "failure"
            filmed = state in {0, self.episodes_per_cell - 1} and self.videos > 0
            name = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in task.split("/", 1)[-1])
            video = f"videos/{experience}-{name}-{1000 + state}-{outcome}.mp4" if filmed else None
            if video is not None:
                write_video(folder / video, outcome == "success", seed=experience)
            rows.append(
                {
                    "experience": experience,
                    "step": (experience + 1) * self.steps_per_experience,
                    "split": "report",
                    "task": task,
                    "initial_state": 1000 + state,
                    "outcome": outcome,
                    "env_steps": 80 if outcome == "success" else 200,
                    "decisions": 20 if outcome == "success" else 50,
                    "total_reward": 10.0,
                    "seconds": 0.8,
                    "error": None,
                    "video": video,
                    "render_profile": "fast",
                }
            )
        return rows


def write_video(path: Path, success: bool, seed: int = 0, frames: int = 12, size: int = 128) -> None:
    """Film a square that reaches the target, or does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = 200 - 25 * (seed % 4)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = np.full((size, size, 3), shade, np.uint8)
            picture[size // 2 :, :] = (120, 96, 72)
            picture[70:94, 92:116] = (40, 150, 70)
            left = 8 + int((84 if success else 34) * index / (frames - 1))
            picture[72:92, left : left + 20] = (190, 60, 50)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def experience_replay(**changes: Any) -> GeneratedRun:
    """A run that keeps what it learns."""
    settings: dict[str, Any] = {
        "name": "er",
        "method": "er",
        "success": ((1.0, None, None), (0.95, 0.85, None), (0.9, 0.9, 0.95)),
        "memory_bytes": 9_600_000,
        "train_seconds": 268.0,
    }
    return GeneratedRun(**(settings | changes))


def joint(**changes: Any) -> GeneratedRun:
    """A run that learns all tasks at once: one row, K columns."""
    settings: dict[str, Any] = {
        "name": "joint",
        "arrangement": "joint",
        "success": ((1.0, 0.95, 0.95),),
        "steps_per_experience": 1800,
        "train_seconds": 150.0,
    }
    return GeneratedRun(**(settings | changes))


def independent(**changes: Any) -> GeneratedRun:
    """One model per task: only the diagonal is measured."""
    settings: dict[str, Any] = {
        "name": "independent",
        "arrangement": "independent",
        "success": ((1.0, None, None), (None, 0.95, None), (None, None, 1.0)),
    }
    return GeneratedRun(**(settings | changes))

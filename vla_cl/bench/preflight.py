"""How long the pre-flight of 10^6 frames takes on one core, and that it finds the one frame that is wrong."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.types import ConfigurationError

FRAMES, EPISODE, NUMBERS, FILES, TASKS, FPS = 1_000_000, 500, 14, 10, 7, 30
LIMIT = 10.0  # seconds of one core
WRONG_ROW = 777_777


def preflight(overrides: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """Seconds and memory for a synthetic dataset without pictures; the gate is that a NaN in it is found and named."""
    from vla_cl.data.preflight import inspect_dataset
    from vla_cl.data.recorded import recorded_tasks

    with tempfile.TemporaryDirectory() as folder:
        root = write_dataset(Path(folder) / "right", FRAMES)
        before, began = _peak(), time.process_time()
        found = recorded_tasks([root])
        report = inspect_dataset(root)
        seconds, memory = time.process_time() - began, _peak() - before
        wrong = write_dataset(Path(folder) / "wrong", FRAMES, wrong_row=WRONG_ROW)
        sentence = ""
        try:
            inspect_dataset(wrong)
        except ConfigurationError as error:
            sentence = str(error)
    place = f"action of episode {WRONG_ROW // EPISODE}, frame {WRONG_ROW % EPISODE} is nan"
    gate = report.frames == FRAMES and len(found.tasks) == TASKS and place in sentence
    return {
        "frames": report.frames,
        "seconds_of_one_core": round(seconds, 2),
        "limit_seconds": LIMIT,
        "memory_mib": round(memory),
        "wrong_frame_named": gate,
        "holds": gate and seconds < LIMIT,
    }


def write_dataset(root: Path, frames: int, wrong_row: int | None = None) -> Path:
    """A LeRobotDataset v3 without pictures.

    Args:
        root: Its folder.
        frames: A multiple of `EPISODE` and `FILES`.
        wrong_row: The row whose action has a NaN; None: none.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    episodes = frames // EPISODE
    for name in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for file, rows in enumerate(np.split(np.arange(frames), FILES)):
        vectors = {name: random.normal(size=(len(rows), NUMBERS)).astype(np.float32) for name in ("s", "a")}
        if wrong_row is not None:
            vectors["a"][rows == wrong_row, 3] = np.nan
        columns = {
            "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(vectors["s"].reshape(-1)), NUMBERS),
            "action": pa.FixedSizeListArray.from_arrays(pa.array(vectors["a"].reshape(-1)), NUMBERS),
            "timestamp": pa.array((rows % EPISODE / FPS).astype(np.float32)),
            "frame_index": pa.array(rows % EPISODE),
            "episode_index": pa.array(rows // EPISODE),
            "index": pa.array(rows),
            "task_index": pa.array(rows // EPISODE % TASKS),
        }
        parquet.write_table(pa.table(columns), root / "data" / "chunk-000" / f"file-{file:03d}.parquet")
    texts = pd.Index([f"task {number}" for number in range(TASKS)], name="task")
    pd.DataFrame({"task_index": range(TASKS)}, index=texts).to_parquet(root / "meta" / "tasks.parquet")
    numbers = np.arange(episodes)
    table = {
        "episode_index": numbers,
        "tasks": [[texts[int(number) % TASKS]] for number in numbers],
        "length": EPISODE,
        "data/chunk_index": 0,
        "data/file_index": numbers * FILES // episodes,
        "dataset_from_index": numbers * EPISODE,
        "dataset_to_index": (numbers + 1) * EPISODE,
    }
    pd.DataFrame(table).to_parquet(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    features = {
        name: {"dtype": "float32", "shape": [NUMBERS], "names": None} for name in ("action", "observation.state")
    }
    info = {"codebase_version": "v3.0", "fps": FPS, "total_frames": frames, "total_episodes": episodes}
    (root / "meta" / "info.json").write_text(json.dumps({**info, "features": features}))
    return root


def _peak() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

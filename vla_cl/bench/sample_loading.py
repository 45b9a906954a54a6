"""Rows of ``vla-cl bench methods`` on data: random training samples against a DataLoader over stock LeRobotDataset."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.bench.measuring import ratio, say, take_turns
from vla_cl.bench.rows import Figure, Gate, Result, RowSettings
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source

CAMERAS = ("observation.images.front", "observation.images.wrist")
PIXELS, CHUNK, FPS, BATCH = 128, 50, 20, 32
_SAMPLES_GOAL, _EPOCH_GOAL = 50.0, 3.0
_WORKERS, _PREFETCH = 2, 4


def samples(settings: RowSettings) -> Result:
    """Random samples once every frame has been decoded: two cameras, state, a chunk of 50 actions."""
    bench = _Loading(settings.workspace, episodes=2 if settings.quick else 8, length=40 if settings.quick else 150)
    turns, count = (2, 2) if settings.quick else (6, 8)
    ours = bench.frames(settings.workspace / "cache")
    order = bench.order(seed=1)
    gate = bench.gate(ours, order[: 2 * BATCH])
    loaders = {workers: bench.peer(order, workers) for workers in (0, _WORKERS)}
    batches = {workers: _forever(loader) for workers, loader in loaders.items()}
    for stream in batches.values():
        next(stream)
    passing = order_batches(order)

    def our_seconds(_: int) -> float:
        began = time.perf_counter()
        for _ in range(100 * count):
            ours.batch(next(passing))
        return (time.perf_counter() - began) / 100

    def their_seconds(workers: int, _: int) -> float:
        for _ in range(workers * _PREFETCH):  # what was loaded while the others had their turn
            next(batches[workers])
        began = time.perf_counter()
        for _ in range(count):
            next(batches[workers])
        return time.perf_counter() - began

    sides = {"ours": our_seconds}
    sides |= {_name(workers): partial(their_seconds, workers) for workers in loaders}
    seconds = take_turns(sides, turns)
    best = min((_name(workers) for workers in loaders), key=lambda name: float(np.median(seconds[name])))
    found = ratio(seconds["ours"], seconds[best])
    per_second = {name: count * BATCH / float(np.median(values)) for name, values in seconds.items()}
    return Result(
        compares=f"random samples of two cameras at {PIXELS} pixels, state and {CHUNK} actions, batch {BATCH}, against "
        f"{best}",
        gate=gate,
        ratio=found,
        figures=[
            *(Figure(name, round(value, 1), "samples/s") for name, value in per_second.items()),
            Figure(f"ours, a batch of {BATCH}", round(1e3 * float(np.median(seconds["ours"])) / count, 2), "ms"),
        ],
        holds=found.median >= _SAMPLES_GOAL,
        others={name: ratio(seconds["ours"], seconds[name]) for name in seconds if name not in ("ours", best)},
    )


def first_epoch(settings: RowSettings) -> Result:
    """The first pass over the data, decoding included."""
    bench = _Loading(settings.workspace, episodes=2 if settings.quick else 8, length=40 if settings.quick else 150)
    order = bench.order(seed=1)
    gate = bench.gate(bench.frames(settings.workspace / "gate"), order[: 2 * BATCH])

    def our_seconds(turn: int) -> float:
        began = time.perf_counter()
        frames = bench.frames(settings.workspace / f"cache-{turn}")
        for start in range(0, len(order), BATCH):
            frames.batch(order[start : start + BATCH])
        return time.perf_counter() - began

    def their_seconds(workers: int) -> float:
        began = time.perf_counter()
        for _ in bench.peer(order, workers):
            pass
        return time.perf_counter() - began

    sides = {"ours": our_seconds, _name(0): lambda _: their_seconds(0)}
    sides[_name(_WORKERS)] = lambda _: their_seconds(_WORKERS)
    seconds = take_turns(sides, 1 if settings.quick else 3)
    best = min((name for name in seconds if name != "ours"), key=lambda name: float(np.median(seconds[name])))
    found = ratio(seconds["ours"], seconds[best])
    return Result(
        compares=f"first epoch of {len(order)} samples, decoding included, against {best}",
        gate=gate,
        ratio=found,
        figures=[Figure(name, round(float(np.median(values)), 2), "s") for name, values in seconds.items()],
        holds=found.median >= _EPOCH_GOAL,
        others={name: ratio(seconds["ours"], seconds[name]) for name in seconds if name not in ("ours", best)},
    )


class _Loading:
    """A recorded dataset and both ways of reading it."""

    def __init__(self, workspace: Path, episodes: int, length: int) -> None:
        self.root = workspace / "dataset"
        say(f"recording {episodes} episodes of {length} frames")
        _record(self.root, episodes, length)
        self.total = episodes * length

    def frames(self, cache: Path) -> Frames:
        return Frames([Source(self.root)], cache, range(CHUNK))

    def order(self, seed: int) -> NDArray[np.int64]:
        return np.random.default_rng(seed).permutation(self.total)

    def peer(self, order: NDArray[np.int64], workers: int) -> Any:  # noqa: ANN401 - a DataLoader
        dataset = self._dataset()
        parallel = {"prefetch_factor": _PREFETCH, "multiprocessing_context": "spawn"} if workers else {}
        return torch.utils.data.DataLoader(
            dataset,
            batch_size=BATCH,
            sampler=order.tolist(),
            num_workers=workers,
            **parallel,  # type: ignore[arg-type]
        )

    def _dataset(self) -> Any:  # noqa: ANN401 - a LeRobotDataset
        from lerobot.datasets import LeRobotDataset

        return LeRobotDataset(
            "local/bench", root=self.root, delta_timestamps={"action": [step / FPS for step in range(CHUNK)]}
        )

    def gate(self, ours: Frames, rows: NDArray[np.int64]) -> Gate:
        """Pixels as bytes, states, actions and padding of the same rows."""
        mine, dataset = ours.batch(rows), self._dataset()
        different = 0
        for place, row in enumerate(rows.tolist()):
            theirs = dataset[row]
            pixels = [(theirs[camera] * 255).round().to(torch.uint8) for camera in CAMERAS]
            same = all(torch.equal(mine[camera][place], seen) for camera, seen in zip(CAMERAS, pixels, strict=True))
            same &= torch.equal(mine["observation.state"][place], theirs["observation.state"])
            same &= torch.equal(mine["action"][place], theirs["action"])
            same &= torch.equal(mine["action_is_pad"][place], theirs["action_is_pad"])
            different += not same
        return Gate("every pixel, state, action and padding", different == 0, f"{different} of {len(rows)} rows differ")


def order_batches(order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Batches of the order, again and again."""
    while True:
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def _forever(loader: Any) -> Iterator[Any]:  # noqa: ANN401 - a DataLoader
    while True:
        yield from loader


def _name(workers: int) -> str:
    return f"LeRobotDataset, {workers} workers" if workers else "LeRobotDataset, in process"


def _record(root: Path, episodes: int, length: int) -> None:
    """Smooth moving pictures, written by LeRobot itself with its own video settings."""
    from lerobot.datasets import LeRobotDataset

    features: dict[str, Any] = {
        camera: {"dtype": "video", "shape": (PIXELS, PIXELS, 3), "names": ["height", "width", "channels"]}
        for camera in CAMERAS
    }
    features["observation.state"] = {"dtype": "float32", "shape": (8,), "names": None}
    features["action"] = {"dtype": "float32", "shape": (7,), "names": None}
    dataset = LeRobotDataset.create("local/bench", fps=FPS, features=features, root=root)
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 4 * np.pi, PIXELS)
    for episode in range(episodes):
        for time_step in range(length):
            frame: dict[str, Any] = {
                camera: _picture(ramp, time_step / 10 + number, episode) for number, camera in enumerate(CAMERAS)
            }
            frame["observation.state"] = generator.standard_normal(8).astype(np.float32)
            frame["action"] = generator.standard_normal(7).astype(np.float32)
            frame["task"] = "move"
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()


def _picture(ramp: NDArray[np.floating[Any]], phase: float, episode: int) -> NDArray[np.uint8]:
    channels = [np.sin(ramp[:, None] + phase * (c + 1)) * np.cos(ramp[None, :] + episode + c) for c in range(3)]
    return (127.5 + 127 * np.stack(channels, axis=2)).astype(np.uint8)

"""Videos of episodes that a browser plays."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_cl.files import replacing
from vla_cl.memory.encodings import REPEATABLE


def write_video(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Write an mp4: H.264, yuv420p, its index in front, so that it starts playing before all of it has come.

    The same frames always give the same bytes.

    Sides of odd length get one more row or column, a copy of the last: yuv420p needs even ones.

    Args:
        path: Where to; replaced atomically.
        frames: uint8 (T, H, W, 3), RGB, at least one.
        fps: Frames shown per second.

    Raises:
        ValueError: ``frames`` has another shape or type, or ``fps`` is not positive.
    """
    import av  # heavy, and workers import this package

    av.logging.set_libav_level(av.logging.ERROR)  # LeRobot's video tools leave the encoder talking
    if frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (T, H, W, 3) with T > 0, not {frames.dtype} {frames.shape}")
    if fps <= 0:
        raise ValueError(f"fps must be positive, not {fps}")
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as file,
    ):
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "26", "preset": "veryfast", "threads": "1", "x264-params": REPEATABLE}
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))

"""How the pictures of a remembered unit are written: raw, as JPEGs, or as one H.264 film."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_cl.trust.media import RgbFrames, open_film, open_picture
from vla_cl.types import ConfigurationError

Pictures = NDArray[np.uint8]
"""Shape (N, 3, H, W), RGB."""


FILM_BYTES = 4 * 2**30
"""Most bytes of one decoded film: an episode of 1,000 frames of 1024 pixels."""

_MACROBLOCK = 16
"""Pixels; pictures are padded to a multiple by what stands at their edge."""

REPEATABLE = "mbtree=0:log-level=none"
"""For x264: in small films its macroblock tree depends on what the memory held before."""


class Codec(ABC):
    """Pictures to bytes and back. The bytes of one call lie behind each other in pieces of the sizes it names."""

    name: str

    @abstractmethod
    def encode(self, pictures: Pictures) -> list[bytes]:
        """The pieces: one for each picture, or one for all of them."""

    @abstractmethod
    def decode(self, pieces: Sequence[bytes], shape: tuple[int, ...]) -> Pictures:
        """The pictures of these pieces; ``shape`` is (3, H, W)."""

    @property
    def piecewise(self) -> bool:
        """Whether each picture has a piece of its own and can be read without the others."""
        return True


class Raw(Codec):
    """Every byte as it is."""

    name = "raw"

    def encode(self, pictures: Pictures) -> list[bytes]:
        """One piece per picture."""
        return [picture.tobytes() for picture in pictures]

    def decode(self, pieces: Sequence[bytes], shape: tuple[int, ...]) -> Pictures:
        """Bit by bit what was encoded."""
        return np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, *shape).copy()


class Jpeg(Codec):
    """JPEG by Pillow, without chroma subsampling from quality 90 on.

    Args:
        quality: 1 to 100.
    """

    name = "jpeg"

    def __init__(self, quality: int = 95) -> None:
        self.quality = quality

    def encode(self, pictures: Pictures) -> list[bytes]:
        """One piece per picture."""
        from PIL import Image

        pieces = []
        for picture in pictures:
            target = io.BytesIO()
            subsampling = "4:4:4" if self.quality >= 90 else "4:2:0"
            Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(
                target, "JPEG", quality=self.quality, subsampling=subsampling, optimize=True
            )
            pieces.append(target.getvalue())
        return pieces

    def decode(self, pieces: Sequence[bytes], shape: tuple[int, ...]) -> Pictures:
        """Nearly what was encoded."""
        result = np.empty((len(pieces), *shape), np.uint8)
        for number, piece in enumerate(pieces):
            with open_picture(piece, "a remembered picture", "copy the memory again") as picture:
                result[number] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        return result


class H264(Codec):
    """One film by x264 through PyAV: a bare stream without a container, 4:2:0, on one thread so that it is repeatable.

    Args:
        crf: 0 (best) to 51.
    """

    name = "h264"

    def __init__(self, crf: int = 23) -> None:
        self.crf = crf

    @property
    def piecewise(self) -> bool:
        """A picture needs those before it."""
        return False

    def encode(self, pictures: Pictures) -> list[bytes]:
        """One piece for all; the last row and column are repeated up to whole macroblocks."""
        import av

        frames = pictures.transpose(0, 2, 3, 1)
        height, width = frames.shape[1:3]
        more = (-height % _MACROBLOCK, -width % _MACROBLOCK)
        frames = np.pad(frames, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), mode="edge")
        target = io.BytesIO()
        with av.open(target, "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.thread_count = 1
            stream.options = {"crf": str(self.crf), "x264-params": REPEATABLE}
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
        return [target.getvalue()]

    def decode(self, pieces: Sequence[bytes], shape: tuple[int, ...]) -> Pictures:
        """Nearly what was encoded."""
        height, width = shape[1:]
        frames: list[NDArray[np.uint8]] = []
        rgb = RgbFrames()
        with open_film(b"".join(pieces), "a remembered film", "copy the memory again") as container:
            container.streams.video[0].thread_count = 1
            for frame in container.decode(video=0):
                if not (0 <= frame.height - height < _MACROBLOCK and 0 <= frame.width - width < _MACROBLOCK):
                    raise ConfigurationError(f"a remembered film has pictures of {frame.height} x {frame.width} pixels")
                frames.append(rgb.picture(frame)[:height, :width])
                if len(frames) * height * width * 3 > FILM_BYTES:
                    raise ConfigurationError(f"a remembered film has more than {FILM_BYTES} bytes of pictures")
        return np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))


def codec(name: str, quality: int = 95, crf: int = 23) -> Codec:
    """A codec by name; where pictures are left out (``features``), one that is never asked.

    Raises:
        ConfigurationError: There is none of this name.
    """
    found = {"raw": Raw(), "features": Raw(), "jpeg": Jpeg(quality), "h264": H264(crf)}.get(name)
    if found is None:
        raise ConfigurationError(f"unknown encoding {name!r}; known: raw, jpeg, h264, features")
    return found

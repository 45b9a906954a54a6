"""Pictures and videos of others: known formats, a bound on pixels before decoding, nothing that leads elsewhere."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.trust.reading import MIB, require_file
from vla_cl.trust.text import short, told_as
from vla_cl.types import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from av import VideoFrame
    from av.container import InputContainer
    from numpy.typing import NDArray
    from PIL import Image

PIXELS = 64 * 2**20
"""Most pixels of a picture or a frame: 8192 x 8192."""

PICTURE_BYTES = 256 * MIB
"""Largest picture file."""

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""What robots' datasets store; each is decoded in this process, without a helper program."""

STREAMS = 64
"""Most streams in a video file."""

VIDEO_OPTIONS = {"protocol_whitelist": "file", "enable_drefs": "0", "max_pixels": str(PIXELS)}
"""A video may not name other files or addresses, and no decoder makes room for larger frames."""

_BICUBIC = 4
"""FFmpeg's number of the filter that enlarges colour planes; pixels of the usual 8-bit formats do not depend on it."""

_LIMITED, _FULL = 1, 2
"""FFmpeg's numbers of the ranges of brightness: 16 to 235, and 0 to 255."""

_BT709, _BT601 = 1, 5
"""FFmpeg's numbers of two colour spaces; the second is meant where nothing is said."""

_FULL_FORMATS = ("yuvj", "gray", "ya")
"""Pixel formats whose range is full without a word."""

_TORCHCODEC_WIDTH = 32
"""torchcodec converts widths that are no multiple of this by another way, and only that one heeds the noted range."""


@contextmanager
def open_picture(source: Path | bytes, what: str, remedy: str) -> Iterator[Image.Image]:
    """Open a picture; its pixels are decoded when the body asks for them.

    Args:
        source: A file, or its content.
        what: What it is to the reader, for the message.
        remedy: What to do if it is damaged.

    Raises:
        ConfigurationError: It is missing, of another format, too large, or damaged, also if that shows in the body.
    """
    from PIL import Image

    if isinstance(source, Path):
        require_file(source, what, remedy, PICTURE_BYTES)
        what = f"{what} at {short(source)}"
    elif len(source) > PICTURE_BYTES:
        raise ConfigurationError(f"{what} has {len(source)} bytes, more than the {PICTURE_BYTES} allowed; {remedy}")
    # SyntaxError is what Pillow raises for broken PNG chunks
    failures = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, struct.error, OverflowError)
    with told_as(f"{what} is no whole picture", remedy, *failures):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is the one that counts
            picture = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=PICTURE_FORMATS)
        with picture:
            if picture.width * picture.height > PIXELS:
                raise ConfigurationError(
                    f"{what} has {picture.width} x {picture.height} pixels, more than the {PIXELS} allowed; {remedy}"
                )
            yield picture


@contextmanager
def open_video(path: Path, what: str, remedy: str) -> Iterator[InputContainer]:
    """Open a video file for decoding; it has a video stream.

    The container format is told from the first bytes and given to FFmpeg, so a playlist, a list of files or an address
    inside is never followed.

    Args:
        path: The file.
        what: What it is to the reader, for the message.
        remedy: What to do if it is damaged.

    Raises:
        ConfigurationError: As of `vla_cl.trust.reading.require_file`; it is no mp4, mkv or avi file, has no video
            stream, too large frames, or is damaged, also if that shows in the body.
    """
    import av

    require_file(path, what, remedy)
    shown = f"{what} at {short(path)}"
    kind = _container(path)
    if kind is None:
        raise ConfigurationError(f"{shown} is no mp4, mkv, webm or avi file; {remedy}")
    with (
        told_as(f"{shown} cannot be decoded", remedy, av.FFmpegError, OSError, IndexError, UnicodeDecodeError),
        av.open(f"file:{path.resolve()}", format=kind, options=VIDEO_OPTIONS) as container,
    ):
        if not container.streams.video or len(container.streams) > STREAMS:
            raise ConfigurationError(f"{shown} has no video stream, or more than {STREAMS} streams; {remedy}")
        for stream in container.streams.video:
            if not 0 < stream.width * stream.height <= PIXELS:
                raise ConfigurationError(f"{shown} has frames of {stream.width} x {stream.height} pixels; {remedy}")
            stream.codec_context.options = {"max_pixels": str(PIXELS)}
        yield container


@contextmanager
def open_film(content: bytes, what: str, remedy: str) -> Iterator[InputContainer]:
    """Open a bare H.264 stream in memory.

    Args:
        content: The stream.
        what: What it is to the reader, for the message.
        remedy: What to do if it is damaged.

    Raises:
        ConfigurationError: It is damaged or has too large frames, also if that shows in the body.
    """
    import av

    with (
        told_as(f"{what} cannot be decoded", remedy, av.FFmpegError, OSError, IndexError),
        av.open(io.BytesIO(content), format="h264", options=VIDEO_OPTIONS) as container,
    ):
        container.streams.video[0].codec_context.options = {"max_pixels": str(PIXELS)}
        yield container


class RgbFrames:
    """Decoded frames of one video as RGB pictures; the only place where a frame becomes a picture.

    The colours are those of torchcodec 0.11, LeRobot's default decoder, bit for bit: the colour space that the frame
    notes, its range where torchcodec heeds it, and colour planes enlarged bicubically.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame, uint8 (H, W, 3)."""
        if frame.format.is_rgb:
            converted = self._reformatter.reformat(frame, format="rgb24", interpolation=_BICUBIC)
        else:
            space = int(frame.colorspace)
            converted = self._reformatter.reformat(
                frame,
                format="rgb24",
                src_colorspace=space,
                dst_colorspace=_BT601 if space != _BT601 else _BT709,  # RGB has none, but PyAV skips equal ones
                interpolation=_BICUBIC,
                src_color_range=_range(frame),
                dst_color_range=_LIMITED,
            )
        return converted.to_ndarray().astype("uint8", copy=False)


def _range(frame: VideoFrame) -> int:
    noted = int(frame.color_range)
    if frame.width % _TORCHCODEC_WIDTH and noted in (_LIMITED, _FULL):
        return noted
    return _FULL if frame.format.name.startswith(_FULL_FORMATS) else _LIMITED


def _container(path: Path) -> str | None:
    """FFmpeg's name of the format, from the first bytes."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mp4"
    if start[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if start[:4] == b"RIFF" and start[8:] == b"AVI ":
        return "avi"
    return None

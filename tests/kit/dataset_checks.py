"""What tests of odd datasets share: two small datasets as LeRobot writes them, read rightly or refused."""

import io

import numpy as np
import pyarrow as pa
import pytest
from odd_datasets import (
    CAMERA,
    data_file,
    numbered,
    set_column,
)
from PIL import Image
from sentences import length

from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError

EPISODES = (("lift", 6), ("drop", 5))
TOTAL = 11


def read(root):
    """Everything that training reads."""
    return Frames([Source(root)], root.parent / "cache", [0, 1])


def refused(root, *words):
    """One sentence of at most 300 characters, with these words."""
    with pytest.raises(ConfigurationError) as caught:
        read(root)
    message = str(caught.value)
    assert "\n" not in message and length(message) <= 300, message
    for word in words:
        assert word in message, message


def read_rightly(root, pristine):
    """The same samples as the dataset as it was written."""
    expected = Frames([Source(pristine)], root.parent / "expected", [0, 1]).batch(np.arange(TOTAL))
    found = read(root).batch(np.arange(TOTAL))
    for key, value in expected.items():
        assert np.array_equal(value, found[key]), key


def png(picture, mode=None, kind="PNG"):
    image = Image.fromarray(picture)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def store(root, contents, paths=None):
    """Replace the stored pictures."""
    cells = [
        {"bytes": content, "path": path}
        for content, path in zip(contents, paths or [None] * len(contents), strict=True)
    ]
    set_column(data_file(root), CAMERA, pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))


PICTURES = [numbered(episode, step) for episode, (_, length) in enumerate(EPISODES) for step in range(length)]

"""A unit of an experience's data as bytes, in the encoding that the settings ask for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Data, Model
from vla_cl.memory.encodings import codec
from vla_cl.memory.record import LENGTH_BYTES, is_picture, pack
from vla_cl.memory.selection import features_of, with_ability
from vla_cl.memory.settings import MemorySettings
from vla_cl.memory.store import TrajectoryStore
from vla_cl.types import Ability

LEAST_BYTES = TrajectoryStore.plan("", bytes(LENGTH_BYTES)).bytes_on_disk
"""Of a copied unit without a sample: no copy is smaller."""

FEATURES_KEY = "features"
"""Key of the model's embeddings, float16 (B, D), in batches whose pictures they replace."""


def packed(data: Data, rows: NDArray[np.int64], settings: MemorySettings, model: Model | None) -> bytes:
    """The samples of a unit's rows. The action of each frame alone is noted where the data tell it.

    Raises:
        ConfigurationError: Features are asked for, and there is no model that has them.
    """
    batch = dict(data.batch(rows))
    if settings.encoding == "features":
        import torch

        found = features_of(with_ability(model, Ability.FEATURES), data, rows)
        batch = {key: value for key, value in batch.items() if not is_picture(value)}
        batch[FEATURES_KEY] = torch.from_numpy(found.astype(np.float16))
    notes = {"action": data.column("actions")[rows]} if "actions" in data.columns else {}
    return pack(batch, notes, codec(settings.encoding, settings.quality, settings.crf))


def least_picture_bytes(settings: MemorySettings, sizes: Iterable[tuple[int, int]]) -> int:
    """The fewest bytes that a frame's pictures take in a copy: those of grey ones, which no encoding makes larger.

    Films are told nothing of: what they take depends on the frames before.

    Args:
        settings: With the encoding.
        sizes: Height and width of each camera's picture.
    """
    chosen = codec(settings.encoding, settings.quality, settings.crf)
    if settings.encoding == "features" or not chosen.piecewise:
        return 0
    grey = [np.full((1, 3, height, width), 128, np.uint8) for height, width in sizes]
    return sum(len(piece) for picture in grey for piece in chosen.encode(picture))

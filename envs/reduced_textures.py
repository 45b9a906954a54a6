"""Smaller textures for the fast render profile: what pictures of a policy's size can show, in a third of the memory.

MuJoCo puts a square texture on all six sides of a cube, with four bytes for each pixel and smaller copies beside it:
robosuite's walls and tables take more than 100 MB in every renderer. Like `vla_cl.envs.simplified_meshes` meant for a
copy of the model that is uploaded and thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import mujoco

LARGEST = 512  # pixels along the longer side

_CHANNELS = (1, 3, 4)  # grey, colours, colours with opacity


def reduce_textures(model: mujoco.MjModel) -> None:
    """Write smaller ones over the textures that are wider or higher than `LARGEST`, in place."""
    for index in range(model.ntex):
        width, height = int(model.tex_width[index]), int(model.tex_height[index])
        faces = 6 if height == 6 * width else 1  # a cube's six sides lie below one another
        side = height // faces
        channels = int(model.tex_nchannel[index])
        if max(width, side) <= LARGEST or channels not in _CHANNELS:
            continue
        start = int(model.tex_adr[index])
        pixels = model.tex_data[start : start + width * height * channels].reshape(faces, side, width, channels)
        scale = LARGEST / max(width, side)
        size = max(1, round(width * scale)), max(1, round(side * scale))
        smaller = [_resized(face, size) for face in pixels]
        model.tex_width[index], model.tex_height[index] = size[0], size[1] * faces
        flat = np.concatenate([face.reshape(-1) for face in smaller])
        model.tex_data[start : start + len(flat)] = flat


def _resized(face: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    image = Image.fromarray(face[..., 0] if face.shape[-1] == 1 else face)
    return np.asarray(image.resize(size, Image.Resampling.BOX))

"""Smaller textures: the same picture in fewer pixels, in the same place of the model."""

import mujoco
import numpy as np
import pytest
from PIL import Image

from vla_cl.envs.reduced_textures import LARGEST, reduce_textures


@pytest.fixture
def model(tmp_path):
    across = np.linspace(0, 255, 1200).astype(np.uint8)
    picture = np.stack([np.tile(across, (900, 1)), np.tile(across[:900, None], (1, 1200)), np.full((900, 1200), 9)], -1)
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "wide.png")
    assets = f"""
      <texture name="wide" type="2d" file="{tmp_path}/wide.png"/>
      <texture name="cube" type="cube" builtin="gradient" rgb1="1 0 0" rgb2="0 0 1" width="600" height="3600"/>
      <texture name="small" type="2d" builtin="checker" rgb1="1 1 1" rgb2="0 0 0" width="64" height="64"/>"""
    return mujoco.MjModel.from_xml_string(f"<mujoco><asset>{assets}</asset></mujoco>")


def pixels(model, name):
    index = model.texture(name).id
    shape = model.tex_height[index], model.tex_width[index], model.tex_nchannel[index]
    return model.tex_data[model.tex_adr[index] :][: int(np.prod(shape))].reshape(shape)


def test_large_ones_become_smaller_and_look_the_same(model):
    before = {name: pixels(model, name).copy() for name in ("wide", "cube", "small")}
    reduce_textures(model)
    assert pixels(model, "wide").shape == (384, LARGEST, 3)
    assert pixels(model, "cube").shape == (6 * LARGEST, LARGEST, 3)
    for name in ("wide", "cube"):
        small = pixels(model, name).astype(float)
        rows = ((np.arange(len(small)) + 0.5) * len(before[name]) / len(small)).astype(int)
        columns = ((np.arange(LARGEST) + 0.5) * before[name].shape[1] / LARGEST).astype(int)
        assert np.abs(small - before[name][rows][:, columns]).max() <= 4
    assert np.array_equal(pixels(model, "small"), before["small"])

"""Pictures of a robosuite world as its camera observables would hold them, drawn only when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.rendering import OffscreenRenderer
from vla_cl.envs.robosuite_core import RobosuiteCore

if TYPE_CHECKING:
    import mujoco

FILM_SIZE = 256
COLLISION_SHAPES = 0  # robosuite's group of geoms that are for contacts only


class SampledPictures:
    """Draws the last sample of a `RobosuiteCore`, whenever that was taken."""

    def __init__(self, core: RobosuiteCore, render_profile: str, size: int) -> None:
        """Make nothing yet; the GL context comes with the first picture.

        Args:
            core: The simulation.
            render_profile: One of `vla_cl.envs.rendering.RENDER_PROFILES`.
            size: Height and width of the largest picture that will be asked for, in pixels.
        """
        self._core, self._profile, self._largest = core, render_profile, max(size, FILM_SIZE)
        self._renderer: OffscreenRenderer | None = None
        self._model: object = None

    def draw(self, camera: str, size: int) -> NDArray[np.uint8]:
        """A camera's picture, upright, RGB, uint8 (size, size, 3)."""
        import mujoco

        core, sample = self._core, self._core.sample
        if self._model is not core.model:  # after a hard reset
            self.close()
            self._model = core.model
            self._stage = mujoco.MjData(core.model)
            self._renderer = OffscreenRenderer(
                core.model, self._profile, self._largest, self._largest, hidden_geom_groups=(COLLISION_SHAPES,)
            )
        assert self._renderer is not None
        for name, positions in sample.scene.items():
            getattr(self._stage, name)[:] = positions
        with _coloured(core.model, sample.colours):
            return self._renderer.picture(self._stage, camera, size, size)

    def film(self, camera: str) -> NDArray[np.uint8]:
        """A picture for people, at least 256 pixels wide."""
        return self.draw(camera, self._largest)

    def close(self) -> None:
        """Free the GL context; a second call does nothing."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._model = None


@contextmanager
def _coloured(model: mujoco.MjModel, colours: Mapping[str, NDArray[np.float32]]) -> Iterator[None]:
    """The model in the colours of a sample, for as long as a picture takes."""
    now = {name: getattr(model, name).copy() for name in colours}
    for name, value in colours.items():
        getattr(model, name)[:] = value
    try:
        yield
    finally:
        for name, value in now.items():
            getattr(model, name)[:] = value

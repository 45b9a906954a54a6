"""Off-screen pictures from MuJoCo: the GL back end, the look (render profile) and one renderer for all cameras.

Importing this module imports no simulator. MuJoCo picks its GL back end from the environment when it is imported, so
call `choose_gl_backend` first.
"""

from __future__ import annotations

import atexit
import copy
import difflib
import os
import sys
import weakref
from collections.abc import Collection, Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.reduced_textures import reduce_textures
from vla_cl.envs.simplified_meshes import simplify_meshes
from vla_cl.types import ConfigurationError

if TYPE_CHECKING:
    import mujoco
    from mujoco.gl_context import GLContext

RENDER_PROFILES = ("reference", "fast")
"""``reference``: MuJoCo's defaults, which published data were recorded with. ``fast``: no shadow, no reflection, no
multisampling, lighter meshes and textures, an order of magnitude faster where there is no GPU. A policy trained on one
look fails on another."""

RENDER_PROFILE_VERSIONS: Mapping[str, int] = {"reference": 1, "fast": 2}
"""Raised whenever a profile's pictures change, so that pictures of two looks are not mixed unnoticed. ``fast`` had full
meshes and textures in version 1."""

DEBIAN_PACKAGES = "libegl1 libgl1-mesa-dri"
"""What software rendering needs on Debian and Ubuntu: EGL, which brings Mesa's implementation, and Mesa's drivers."""

FAST_SLICES, FAST_STACKS = 20, 6
"""How finely cylinders, capsules and spheres are cut, around and along; MuJoCo's defaults are 28 and 16."""

OUTLINE_MARGIN = 1.05
"""Bounding spheres are taken this much larger: lighter meshes bulge a little."""

_renderers: weakref.WeakSet[OffscreenRenderer] = weakref.WeakSet()


def check_render_profile(profile: str) -> str:
    """Give the profile back if there is one of this name.

    Raises:
        ConfigurationError: There is none.
    """
    if profile in RENDER_PROFILES:
        return profile
    near = difflib.get_close_matches(str(profile), RENDER_PROFILES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"render_profile is one of {', '.join(RENDER_PROFILES)}, got {profile!r}{hint}")


def look_fingerprint(profile: str) -> Mapping[str, object]:
    """What a suite's fingerprint adds for its render profile; nothing for a first version, so that old keys stay."""
    version = RENDER_PROFILE_VERSIONS[check_render_profile(profile)]
    return {"render_profile_version": version} if version > 1 else {}


def choose_gl_backend(worker: bool = False) -> None:
    """Choose EGL, which needs no screen, unless the user has chosen or has a screen. Call it before MuJoCo is imported.

    Args:
        worker: This process is one of several that render side by side: Mesa's software renderer gets one thread, or
            the workers would fight for the cores. ``LP_NUM_THREADS`` overrides it; a GPU ignores it.

    Raises:
        ConfigurationError: PyOpenGL is told to use another platform.
    """
    if worker:
        os.environ.setdefault("LP_NUM_THREADS", "1")
    if sys.platform == "linux" and not os.environ.get("MUJOCO_GL") and not os.environ.get("DISPLAY"):
        os.environ["MUJOCO_GL"] = "egl"
    if os.environ.get("MUJOCO_GL") == "egl":
        platform = os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
        if platform != "egl":
            raise ConfigurationError(
                f"PYOPENGL_PLATFORM is {platform!r} but MUJOCO_GL is 'egl'; unset PYOPENGL_PLATFORM"
            )


def rendering_error(error: Exception) -> ConfigurationError:
    """Explain an error of MuJoCo's import or of its GL context, in one sentence."""
    backend = os.environ.get("MUJOCO_GL") or "glfw"
    detail = str(error).strip().splitlines() or [type(error).__name__]
    return ConfigurationError(
        f"MuJoCo cannot render off-screen with MUJOCO_GL={backend} ({detail[0]}); on Debian or Ubuntu run "
        f"`apt-get install {DEBIAN_PACKAGES}` and leave MUJOCO_GL unset or set it to egl"
    )


class OffscreenRenderer:
    """Renders the cameras of one model into arrays, in any size up to the one given, with one GL context.

    A context belongs to the process and thread that made it.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        profile: str,
        height: int,
        width: int,
        hidden_geom_groups: Collection[int] = (),
    ) -> None:
        """Make the context.

        Args:
            model: A ``mujoco.MjModel``, which stays as it is. Moving things is seen, another look of meshes or
                textures is not: those are read now.
            profile: One of `RENDER_PROFILES`.
            height: Height of the largest picture, in pixels.
            width: Width of the largest picture, in pixels.
            hidden_geom_groups: Groups of geoms that are not shown; robosuite puts collision shapes into group 0.

        Raises:
            ConfigurationError: This machine cannot render.
        """
        import mujoco

        self._fast = check_render_profile(profile) == "fast"
        self._model = model
        self._options = mujoco.MjvOption()
        for group in hidden_geom_groups:
            self._options.geomgroup[group] = 0
        look = _look(model, self._fast, self._options)
        look.vis.global_.offheight, look.vis.global_.offwidth = height, width
        self._gl: GLContext | None = _make_gl_context(height, width)
        try:
            self._context = mujoco.MjrContext(look, mujoco.mjtFontScale.mjFONTSCALE_50)  # no picture has letters
        except (RuntimeError, mujoco.FatalError) as error:
            raise rendering_error(error) from error
        _renderers.add(self)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, 1000)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def picture(self, data: mujoco.MjData, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Render a camera of the model.

        Args:
            data: The ``mujoco.MjData`` to show, as it is: nothing is recomputed.
            camera: Name of the camera.
            height: In pixels.
            width: In pixels.

        Returns:
            RGB, uint8 (height, width, 3), the top row first.
        """
        import mujoco

        if self._gl is None:
            raise RuntimeError("the renderer is closed")
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        if self._fast:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            self._drop_what_is_out_of_view(data, width / height)
        viewport = mujoco.MjrRect(0, 0, width, height)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        return pixels[::-1]

    def _drop_what_is_out_of_view(self, data: mujoco.MjData, aspect: float) -> None:
        """Take geoms out of the scene whose bounding sphere the camera does not see: a wrist camera's own arm, mostly.

        Only without shadows and reflections, in which such geoms could be seen.
        """
        import mujoco

        rotation = data.cam_xmat[self._camera.fixedcamid].reshape(3, 3)
        seen = self._scene.camera[0]
        top, bottom = seen.frustum_top, seen.frustum_bottom
        half_width = seen.frustum_width or (top - bottom) / 2 * aspect
        left, right = seen.frustum_center - half_width, seen.frustum_center + half_width
        near = seen.frustum_near
        inward = np.array([[near, 0, left], [-near, 0, -right], [0, near, bottom], [0, -near, -top], [0, 0, -1]])
        inward /= np.linalg.norm(inward, axis=1, keepdims=True)
        places = (data.geom_xpos - data.cam_xpos[self._camera.fixedcamid]) @ rotation
        bounds = self._model.geom_rbound
        radius = np.where(bounds == 0, np.inf, bounds * OUTLINE_MARGIN)  # 0: a plane, which has no end
        outside = (places @ inward.T < -radius[:, None]).any(axis=1).tolist()
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and outside[geom.objid]:
                geom.type = mujoco.mjtGeom.mjGEOM_NONE

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        if self._gl is None:
            return
        gl, self._gl = self._gl, None
        gl.make_current()
        self._context.free()
        gl.free()


def _look(model: mujoco.MjModel, fast: bool, options: mujoco.MjvOption) -> mujoco.MjModel:
    """A copy of the model to upload from: what is never shown costs nothing, and fast pictures get lighter shapes."""
    import mujoco

    look = copy.copy(model)
    uses_mesh = look.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    visible = np.asarray(options.geomgroup, dtype=bool)[look.geom_group]
    shown = set(look.geom_dataid[uses_mesh & visible].tolist())
    look.mesh_graphadr[:] = -1  # convex hulls, which no picture shows
    look.mesh_facenum[[index for index in range(look.nmesh) if index not in shown]] = 0
    if fast:
        quality = look.vis.quality
        quality.offsamples = 0  # the frame buffer is made with the context
        quality.shadowsize = 0  # spares a shadow map of 64 MiB
        quality.numslices, quality.numstacks = FAST_SLICES, FAST_STACKS
        simplify_meshes(look, shown)
        reduce_textures(look)
    return look


def _make_gl_context(height: int, width: int) -> GLContext:
    """A current GL context of the back end that MuJoCo chose."""
    try:
        from mujoco.gl_context import GLContext

        context = GLContext(width, height)
        context.make_current()
        _close_at_exit()
    except (ImportError, AttributeError, RuntimeError) as error:  # PyOpenGL turns a missing library into AttributeError
        raise rendering_error(error) from error
    return context


@cache
def _close_at_exit() -> None:
    """Free what is still open before MuJoCo shuts EGL down: handlers run last in, first out, and MuJoCo's is in."""

    def close_all() -> None:
        for renderer in list(_renderers):
            renderer.close()

    atexit.register(close_all)

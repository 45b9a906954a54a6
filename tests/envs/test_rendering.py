"""The GL back end: chosen without a screen, freed at exit, and explained when it is missing. The render profiles."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from vla_cl.envs.metaworld import MetaWorld
from vla_cl.envs.rendering import (
    DEBIAN_PACKAGES,
    RENDER_PROFILES,
    OffscreenRenderer,
    choose_gl_backend,
    look_fingerprint,
)
from vla_cl.types import ConfigurationError

LOOK = """
from vla_cl.envs.metaworld import MetaWorld
suite = MetaWorld(32, "fast")
environment = suite.make_environment(suite.task("reach"))
environment.reset(1000)
print(environment.observe().images["observation.image"].shape)
"""


def look(**settings):
    """Render in a new process that inherits no GL settings."""
    ours = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY")
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    return subprocess.run([sys.executable, "-c", LOOK], env=inherited | settings, capture_output=True, text=True)


@pytest.fixture
def bare(monkeypatch):
    for key in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "LP_NUM_THREADS"):
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    return monkeypatch


def chosen():
    return [os.environ.get(key) for key in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS")]


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is Linux's")
def test_egl_is_chosen_without_a_screen(bare):
    choose_gl_backend()
    assert chosen() == ["egl", "egl", None]
    choose_gl_backend(worker=True)
    assert chosen() == ["egl", "egl", "1"]


def test_the_users_choice_stands(bare):
    bare.setenv("MUJOCO_GL", "osmesa")
    bare.setenv("LP_NUM_THREADS", "4")
    choose_gl_backend(worker=True)
    assert chosen() == ["osmesa", None, "4"]


def test_a_screen_is_left_alone(bare):
    bare.setenv("DISPLAY", ":0")
    choose_gl_backend()
    assert chosen() == [None, None, None]


def test_a_contradiction_is_refused(bare):
    bare.setenv("MUJOCO_GL", "egl")
    bare.setenv("PYOPENGL_PLATFORM", "glx")
    with pytest.raises(ConfigurationError, match="unset PYOPENGL_PLATFORM"):
        choose_gl_backend()


@pytest.mark.sim
def test_a_renderer_that_nobody_closed_is_freed_quietly_at_exit():
    done = look()
    assert (done.returncode, done.stdout, done.stderr) == (0, "(32, 32, 3)\n", "")


@pytest.mark.sim
@pytest.mark.parametrize(
    "settings",
    [{"__EGL_VENDOR_LIBRARY_FILENAMES": os.devnull}, {"MUJOCO_GL": "nonsense"}, {"MUJOCO_GL": "off"}],
    ids=["no driver", "no back end", "switched off"],
)
def test_a_machine_that_cannot_render_says_what_to_install(settings):
    done = look(**settings)
    assert done.returncode == 1
    assert "ConfigurationError: MuJoCo cannot render off-screen" in done.stderr
    assert f"apt-get install {DEBIAN_PACKAGES}" in done.stderr


SIZE = 128
BALL = '<mesh name="ball" builtin="sphere" params="4"/>'  # 5,120 triangles
SCENE = f"""
<mujoco>
  <asset>
    {BALL} {BALL.replace('"ball"', '"hidden ball"')}
    <texture name="marble" type="2d" builtin="checker" rgb1="1 .8 .6" rgb2=".2 .3 .8" width="64" height="64"/>
    <material name="marble" texture="marble"/>
  </asset>
  <worldbody>
    <light pos="1 1 3"/>
    <camera name="front" pos="0 -4 1" xyaxes="1 0 0 0 .25 1" fovy="45"/>
    <camera name="away" pos="0 -4 1" xyaxes="-1 0 0 0 -.25 1" fovy="45"/>
    <geom name="floor" type="plane" size="0 0 .1" pos="0 0 -1"/>
    <geom name="ball" type="mesh" mesh="ball" rgba=".8 .2 .2 1" pos="-.3 0 0"/>
    <geom name="marble" type="mesh" mesh="ball" material="marble" pos=".6 1 .5"/>
    <geom name="tower" type="cylinder" size=".2 .6" pos="1.2 0 -.4"/>
    <geom name="hidden" type="mesh" mesh="hidden ball" group="3"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def world():
    choose_gl_backend()
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def bytes_of(model):
    import mujoco

    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer


@pytest.mark.sim
@pytest.mark.parametrize("profile", RENDER_PROFILES)
def test_rendering_leaves_every_byte_of_the_model_alone(profile, world):
    model, data = world
    before = bytes_of(model)
    renderer = OffscreenRenderer(model, profile, SIZE, SIZE, hidden_geom_groups=(0,))
    renderer.picture(data, "front", SIZE, SIZE)
    assert np.array_equal(bytes_of(model), before)
    renderer.close()
    assert np.array_equal(bytes_of(model), before)


@pytest.mark.sim
def test_the_reference_is_what_mujocos_own_renderer_draws(world):
    import mujoco

    model, data = world
    renderer = OffscreenRenderer(model, "reference", SIZE, SIZE)
    ours = renderer.picture(data, "front", SIZE, SIZE).copy()
    renderer.close()
    with mujoco.Renderer(model, SIZE, SIZE) as theirs:
        theirs.update_scene(data, "front")
        assert np.array_equal(ours, theirs.render())


def triangles(renderer, model):
    """Triangles of meshes that the last picture was made of, by the look that was uploaded."""
    import mujoco

    from vla_cl.envs.rendering import _look

    look = _look(model, renderer._fast, renderer._options)
    scene = renderer._scene
    meshes = [geom.dataid // 2 for geom in scene.geoms[: scene.ngeom] if geom.type == mujoco.mjtGeom.mjGEOM_MESH]
    return int(look.mesh_facenum[meshes].sum()), look


@pytest.mark.sim
def test_fast_draws_a_fraction_of_the_triangles_and_nothing_that_is_hidden_or_out_of_view(world):
    model, data = world
    renderer = OffscreenRenderer(model, "fast", SIZE, SIZE)
    renderer.picture(data, "front", SIZE, SIZE)
    drawn, look = triangles(renderer, model)
    assert 0 < drawn < 2 * 5_120 / 4
    assert look.mesh_facenum[model.mesh("hidden ball").id] == 0
    renderer.picture(data, "away", SIZE, SIZE)
    assert triangles(renderer, model)[0] == 0
    renderer.close()


@pytest.mark.sim
def test_lighter_meshes_have_the_same_outlines(world, monkeypatch):
    model, data = world
    pictures, segments = [], []
    for simplify in (True, False):
        if not simplify:
            monkeypatch.setattr("vla_cl.envs.rendering.simplify_meshes", lambda *_: None)
        renderer = OffscreenRenderer(model, "fast", SIZE, SIZE)
        pictures.append(renderer.picture(data, "front", SIZE, SIZE).astype(float))
        segments.append(segmentation(renderer, data))
        renderer.close()
    assert np.abs(pictures[0] - pictures[1]).mean() < 1
    for geom in ("ball", "marble"):
        one, other = (segment == model.geom(geom).id for segment in segments)
        assert one.sum() > 300
        assert (one & other).sum() / (one | other).sum() > 0.98


def segmentation(renderer, data):
    """Which geom each pixel shows, -1 for none."""
    import mujoco

    flags = [int(mujoco.mjtRndFlag.mjRND_SEGMENT), int(mujoco.mjtRndFlag.mjRND_IDCOLOR)]
    renderer._scene.flags[flags] = 1
    colours = renderer.picture(data, "front", SIZE, SIZE).astype(int) @ [1, 256, 65536]
    renderer._scene.flags[flags] = 0
    geoms = {geom.segid + 1: geom.objid for geom in renderer._scene.geoms[: renderer._scene.ngeom]}
    return np.vectorize(lambda colour: geoms.get(colour, -1))(colours)


@pytest.mark.sim
@pytest.mark.parametrize("height, width", [(128, 128), (64, 128), (128, 48)])
def test_leaving_out_what_is_out_of_view_changes_no_pixel(height, width, world, monkeypatch):
    import mujoco

    model, data = world
    renderer = OffscreenRenderer(model, "fast", SIZE, SIZE)
    random = np.random.default_rng(0)
    shown, dropped = [], 0
    for _ in range(30):  # look from everywhere
        data.cam_xpos[0] = random.uniform(-2, 2, 3)
        data.cam_xmat[0] = np.linalg.qr(random.normal(size=(3, 3)))[0].ravel()
        shown.append(renderer.picture(data, "front", height, width).copy())
        scene = renderer._scene
        dropped += sum(geom.type == mujoco.mjtGeom.mjGEOM_NONE for geom in scene.geoms[: scene.ngeom])
    monkeypatch.setattr(OffscreenRenderer, "_drop_what_is_out_of_view", lambda *_: None)
    random = np.random.default_rng(0)
    for picture in shown:
        data.cam_xpos[0] = random.uniform(-2, 2, 3)
        data.cam_xmat[0] = np.linalg.qr(random.normal(size=(3, 3)))[0].ravel()
        assert np.array_equal(picture, renderer.picture(data, "front", height, width))
    assert dropped > 10
    renderer.close()


HASH = """
import sys
from vla_cl.envs.metaworld import MetaWorld
suite = MetaWorld(64, "fast")
for name in sys.argv[1:]:
    environment = suite.make_environment(suite.task(name))
    environment.reset(1000)
    picture = environment.observe().images["observation.image"]
import hashlib
print(hashlib.sha256(picture.tobytes()).hexdigest())
"""


@pytest.mark.sim
def test_fast_pictures_are_the_same_in_every_process_whatever_was_drawn_before():
    suite = MetaWorld(64, "fast")
    environment = suite.make_environment(suite.task("reach"))
    environment.reset(1000)
    other = suite.make_environment(suite.task("soccer"))
    other.reset(1000)
    hashes = set()
    for _ in range(2):
        hashes.add(hashlib.sha256(environment.observe().images["observation.image"].tobytes()).hexdigest())
        other.observe()
        environment.film()
    environment.close()
    other.close()
    command = [sys.executable, "-c", HASH, "hammer", "reach"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert hashes == {done.stdout.strip()}


def test_a_changed_look_changes_the_fingerprint_and_an_old_one_does_not():
    assert look_fingerprint("reference") == {}
    assert look_fingerprint("fast") == {"render_profile_version": 2}
    assert MetaWorld(render_profile="fast").fingerprint()["render_profile_version"] == 2
    assert "render_profile_version" not in MetaWorld().fingerprint()

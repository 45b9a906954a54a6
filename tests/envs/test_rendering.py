"""The GL back end: chosen without a screen, freed at exit, and explained when it is missing."""

import os
import subprocess
import sys

import pytest

from vla_cl.envs.rendering import DEBIAN_PACKAGES, choose_gl_backend
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

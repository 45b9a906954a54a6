"""``vla-cl doctor``: can this machine do the job, and if not, what to type. One line per check.

A check looks at the real thing (renders a picture, encodes a film) instead of trusting a version number. What can take
the process down with it, a GL driver, runs in a process of its own with a time limit.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

RENDER_SECONDS = 120.0
"""Time limit of the rendering probe. A cold start of Mesa on a busy machine takes about 10 s."""

DISK_GIB = 2.0
"""Free space that datasets, checkpoints and videos of the demo need, with a margin."""

SHARED_MEMORY_GIB = 0.25
"""Free shared memory below which data-loader and simulator workers die. Docker gives a container 0.06."""

SYSTEM_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libEGL_mesa.so.0": "libegl-mesa0",
    "libGL.so.1": "libgl1",
}
"""What off-screen rendering loads without a GPU, and the Debian package that has it (and brings the drivers along)."""

LIBERO_ASSET_FOLDERS = ("articulated_objects", "stable_scanned_objects", "turbosquid_objects", "stable_hope_objects")
"""Folders that `hf-libero` itself looks for before it decides to download."""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        ok: Whether it is as it should be.
        found: What was found, in words.
        fix: What to do about it; empty if ``ok``.
        required: False where the rest works without; not ok is then a warning.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""
    required: bool = True


def check_python() -> Check:
    """The interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info[:2] == (3, 12)
    return Check("python", ok, f"{version} in {sys.prefix}", "" if ok else "use Python 3.12: make setup")


def check_torch() -> Check:
    """PyTorch and the device that training will use."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch", False, f"cannot be imported ({_last_line(str(error))})", "make setup")
    if torch.cuda.is_available():
        device = f"GPU: {torch.cuda.get_device_name()}"
    elif torch.backends.mps.is_available():
        device = "GPU: Apple"
    else:
        device = f"no GPU, {torch.get_num_threads()} CPU threads"
    if not torch.cuda.is_available() and Path("/proc/driver/nvidia/version").exists():
        fix = "update the NVIDIA driver, or look at what `nvidia-smi` says"
        return Check(
            "torch", False, f"{torch.__version__} cannot use the NVIDIA GPU of this machine", fix, required=False
        )
    return Check("torch", True, f"{torch.__version__}, {device}")


def check_rendering(seconds: float = RENDER_SECONDS) -> Check:
    """A real off-screen picture, rendered by MuJoCo in a process of its own.

    Args:
        seconds: Time limit.
    """
    command = [sys.executable, "-c", "from vla_cl.tools.doctor import render_probe; render_probe()"]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Check("rendering", False, f"no picture after {seconds:g} s", _rendering_fix())
    if probe.returncode == 0:
        return Check("rendering", True, probe.stdout.strip().splitlines()[-1])
    crashed = f"the GL driver crashed, signal {-probe.returncode}"
    reason = crashed if probe.returncode < 0 else _last_line(probe.stderr)
    return Check("rendering", False, f"no off-screen picture ({reason})", _rendering_fix())


def render_probe() -> None:
    """Render a red ball and print one line about it.

    Raises:
        SystemExit: There is no picture, or no ball in its middle; carries one line that says why.
    """
    from vla_cl.envs.rendering import OffscreenRenderer, choose_gl_backend
    from vla_cl.types import ConfigurationError

    choose_gl_backend()
    import mujoco

    scene = """<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="0.5" rgba="1 0 0 1"/>
               <camera name="front" pos="0 0 3"/></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    backend = f"MUJOCO_GL={os.environ.get('MUJOCO_GL') or 'glfw'}"
    try:
        renderer = OffscreenRenderer(model, "fast", 64, 64)
    except ConfigurationError as error:
        raise SystemExit(f"{backend}: {_last_line(str(error.__cause__ or error))}") from error
    started = time.perf_counter()
    red, green, blue = (int(value) for value in renderer.picture(data, "front", 64, 64)[32, 32])
    milliseconds = (time.perf_counter() - started) * 1000
    if red < 60 or max(green, blue) > red / 2:
        raise SystemExit(f"{backend}: expected red in the middle of the picture, got {(red, green, blue)}")
    from OpenGL import GL

    driver = GL.glGetString(GL.GL_RENDERER).decode()
    print(f"{backend}, {driver.split(' (')[0]}, first picture in {milliseconds:.0f} ms")
    renderer.close()


def _rendering_fix() -> str:
    missing = [library for library in SYSTEM_LIBRARIES if not _loads(library)]
    if missing and shutil.which("apt-get"):
        return f"apt-get install -y {' '.join(SYSTEM_LIBRARIES[library] for library in missing)}"
    if missing:
        return f"install the system packages that hold {', '.join(missing)}"
    if os.environ.get("MUJOCO_GL"):
        return "unset MUJOCO_GL (EGL is then chosen)"
    if os.environ.get("DISPLAY"):
        return "unset DISPLAY, or set MUJOCO_GL=egl"
    return "reinstall the Mesa drivers: apt-get install -y --reinstall libegl-mesa0 libgl1-mesa-dri"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def check_video() -> Check:
    """H.264, the codec of datasets and report videos: a few frames are encoded and decoded again."""
    try:
        import av
        import numpy as np
    except (ImportError, OSError) as error:
        return Check("video", False, f"PyAV cannot be imported ({_last_line(str(error))})", "make setup")
    buffer, count = io.BytesIO(), 8
    fix = "make setup (the PyAV of PyPI brings its own codecs; a system build may lack libx264)"
    try:
        with av.open(buffer, "w", format="mp4") as film:
            stream = film.add_stream("h264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(count):
                picture = np.full((48, 64, 3), 20 * index, dtype=np.uint8)
                film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            film.mux(stream.encode(None))
        buffer.seek(0)
        with av.open(buffer) as film:
            decoded = sum(1 for _ in film.decode(video=0))
    except (av.FFmpegError, ValueError) as error:
        return Check("video", False, f"no H.264 ({_last_line(str(error))})", fix)
    found = f"H.264 by PyAV {av.__version__}, {decoded} of {count} frames came back"
    return Check("video", decoded == count, found, "" if decoded == count else fix)


def check_disk() -> Check:
    """Free space in the current folder, where runs are written."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    ok = free >= DISK_GIB
    return Check(
        "disk", ok, f"{free:.1f} GiB free here", "" if ok else f"free {DISK_GIB:g} GiB, or work in another folder"
    )


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Shared memory, through which worker processes hand over batches.

    Args:
        folder: Where the system mounts it; other systems than Linux have none and need none.
    """
    if not folder.is_dir():
        return Check("shared memory", True, "not mounted here")
    free = shutil.disk_usage(folder).free / 2**30
    ok = free >= SHARED_MEMORY_GIB
    fix = "" if ok else "enlarge it: docker run --shm-size=2g, or mount -o remount,size=2g /dev/shm"
    return Check("shared memory", ok, f"{free:.2f} GiB free in {folder}", fix)


def check_package(distribution: str, extra: str = "") -> Check:
    """An installed version against the range that this project asks for.

    Args:
        distribution: Its name on the package index.
        extra: The extra that brings it; without it the rest works. Empty if it always comes along.
    """
    fix = f"pip install 'vla-cl[{extra}]'" if extra else "make setup"
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return Check(distribution, False, "not installed", fix, required=not extra)
    wanted = _wanted_versions().get(distribution, "")
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Check(distribution, True, version)
    return Check(distribution, False, f"{version}, expected {wanted}", fix, required=not extra)


def _wanted_versions() -> Mapping[str, str]:
    from packaging.requirements import Requirement

    requirements = map(Requirement, importlib.metadata.requires("vla-cl") or [])
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def check_opencv() -> Check:
    """Two packages want to own the folder ``cv2``; both at once leave a mixture."""
    names = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
    installed = [name for name in names if _installed(name)]
    if len(installed) == 1:
        return Check("opencv", True, f"{installed[0]} {importlib.metadata.version(installed[0])}")
    others = [name for name in installed if name != "opencv-python-headless"]
    remove = f"pip uninstall -y {' '.join(others)} && " if others else ""
    fix = f"{remove}pip install --force-reinstall --no-deps opencv-python-headless"
    return Check("opencv", False, f"{' and '.join(installed) or 'no opencv'} installed", fix)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_libero_assets() -> Check:
    """LIBERO's meshes and textures, which its package does not contain.

    Only looks at files: importing LIBERO asks questions on standard input and may start a download.
    """
    package = importlib.util.find_spec("libero")
    if package is None or package.origin is None:
        fix = (
            "apt-get install -y g++, then make setup (or pip install 'vla-cl[libero]'); only the LIBERO suite needs it"
        )
        return Check("libero assets", False, "hf-libero is not installed", fix, required=False)
    places = (Path(package.origin).parent / "libero" / "assets", Path.home() / ".cache" / "libero" / "assets")
    for place in places:
        if all((place / folder).is_dir() for folder in LIBERO_ASSET_FOLDERS):
            return Check("libero assets", True, str(place))
    fix = f"put them into {places[1]}, or be online the first time a LIBERO task is built; only that suite needs them"
    return Check("libero assets", False, "not on this machine", fix, required=False)


CHECKS: Mapping[str, Callable[[], Check]] = {
    "python": check_python,
    "torch": check_torch,
    "rendering": check_rendering,
    "video": check_video,
    "disk": check_disk,
    "shared memory": check_shared_memory,
    "lerobot": lambda: check_package("lerobot"),
    "mujoco": lambda: check_package("mujoco"),
    "metaworld": lambda: check_package("metaworld", extra="metaworld"),
    "robosuite": lambda: check_package("robosuite", extra="robosuite"),
    "hf-libero": lambda: check_package("hf-libero", extra="libero"),
    "opencv": check_opencv,
    "libero assets": check_libero_assets,
}
"""Every check by name, in the order of the report."""


def checks(names: Sequence[str] = ()) -> Iterator[Check]:
    """Look at everything, one check at a time.

    Args:
        names: Only these; empty for all.
    """
    for name, check in CHECKS.items():
        if not names or name in names:
            yield check()


def report(names: Sequence[str] = (), only_problems: bool = False, shown: bool = True) -> list[Check]:
    """Look, and print a line for each thing as soon as it is known.

    Args:
        names: Of `CHECKS`; empty: all.
        only_problems: Print no line for what is fine.
        shown: Print at all.
    """
    console, seen = Console(highlight=False), []
    for check in checks(names):
        seen.append(check)
        if shown and not (only_problems and check.ok):
            console.print(_line(check, unicode=console.encoding.startswith("utf")), soft_wrap=True)
    return seen


def status(seen: Sequence[Check]) -> int:
    """0 if everything required is fine, else 1."""
    return int(any(not check.ok and check.required for check in seen))


def main(arguments: Sequence[str] = ()) -> int:
    """Print the report; ``python -m vla_cl.tools.doctor``, which ``make setup`` uses.

    Args:
        arguments: What follows on the command line.

    Returns:
        0 if everything required is fine, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="vla-cl doctor", description="Can this machine do the job, and if not, what to type."
    )
    parser.add_argument("--json", action="store_true", help="a list of objects instead of lines")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", choices=CHECKS, help=f"one of: {', '.join(CHECKS)}"
    )
    parser.add_argument("--only-problems", action="store_true", help="leave out what is fine")
    options = parser.parse_args(arguments)
    seen = report(options.only, options.only_problems, not options.json)
    if options.json:
        print(json.dumps([asdict(check) for check in seen], indent=2))
    return status(seen)


def _line(check: Check, unicode: bool) -> Text:
    if check.ok:
        mark, style = "✓" if unicode else "ok", "green"
    elif check.required:
        mark, style = "✗" if unicode else "X", "bold red"
    else:
        mark, style = "!", "yellow"
    line = Text.assemble((f"{mark} ", style), (f"{check.name:<14}", "bold"), check.found)
    if check.fix:
        line.append(f"  {'→' if unicode else '->'} ", style="dim").append(check.fix, style="cyan")
    return line


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no message"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

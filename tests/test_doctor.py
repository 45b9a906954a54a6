"""The doctor on this machine, and on machines made sick by their environment."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from vla_cl.tools import doctor

NEEDS_NO_RENDERING = [f"--only={name}" for name in doctor.CHECKS if name not in {"rendering", "torch"}]


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vla_cl.tools.doctor", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False
    )


def pretend_installed(folder: Path, name: str, version: str) -> None:
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.sim
def test_this_machine_is_fine() -> None:
    done = run("--json")
    report = json.loads(done.stdout)
    assert [check["name"] for check in report] == list(doctor.CHECKS)
    assert [check for check in report if check["required"] and not check["ok"]] == []
    assert done.returncode == 0


@pytest.mark.sim
def test_a_real_picture_is_rendered() -> None:
    check = doctor.check_rendering()
    assert check.ok, check
    assert "first picture in" in check.found


@pytest.mark.sim
def test_a_machine_without_a_gl_driver_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", os.devnull)
    check = doctor.check_rendering()
    assert not check.ok
    assert check.required
    assert "libegl-mesa0" in check.fix


def test_an_unknown_back_end_is_to_be_unset() -> None:
    done = run("--only=rendering", environment={"MUJOCO_GL": "nonsense"})
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("✗ rendering")
    assert "nonsense" in done.stdout
    assert done.stdout.rstrip().endswith("→ unset MUJOCO_GL (EGL is then chosen)")


def test_a_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "SYSTEM_LIBRARIES", {"libc.so.6": "libc6", "libmissing.so.1": "libmissing1"})
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    (tmp_path / "apt-get").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_rendering().fix == "apt-get install -y libmissing1"
    monkeypatch.setenv("PATH", "")
    assert doctor.check_rendering().fix == "install the system packages that hold libmissing.so.1"


def test_a_crash_of_the_driver_does_not_take_the_doctor_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor.check_rendering()
    assert not check.ok
    assert "crashed, signal 9" in check.found


def test_a_driver_that_hangs_is_given_up() -> None:
    check = doctor.check_rendering(seconds=0.01)
    assert not check.ok
    assert check.found == "no picture after 0.01 s"


def test_a_film_is_encoded_and_decoded() -> None:
    check = doctor.check_video()
    assert check.ok, check
    assert "8 of 8 frames" in check.found


def test_torch_names_the_device() -> None:
    check = doctor.check_torch()
    assert "CPU threads" in check.found or "GPU" in check.found


def test_a_full_disk_and_little_shared_memory_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.check_disk().ok
    assert doctor.check_shared_memory(tmp_path).ok
    assert doctor.check_shared_memory(tmp_path / "absent").ok
    monkeypatch.setattr(doctor, "DISK_GIB", 1e9)
    monkeypatch.setattr(doctor, "SHARED_MEMORY_GIB", 1e9)
    assert not doctor.check_disk().ok
    assert "--shm-size" in doctor.check_shared_memory(tmp_path).fix


def test_a_wrong_version_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.check_package("mujoco").ok
    pretend_installed(tmp_path, "mujoco", "2.0.0")
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_package("mujoco")
    assert (check.ok, check.required, check.found) == (False, True, "2.0.0, expected ==3.8.1")


def test_an_absent_extra_is_a_warning() -> None:
    check = doctor.check_package("vla-cl-absent", extra="metaworld")
    assert (check.ok, check.required, check.fix) == (False, False, "pip install 'vla-cl[metaworld]'")


def test_two_owners_of_cv2_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.check_opencv().ok
    pretend_installed(tmp_path, "opencv-python", "4.0.0")
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_opencv()
    assert not check.ok
    assert check.fix.startswith("pip uninstall -y opencv-python && ")


@pytest.mark.skipif(importlib.util.find_spec("libero") is None, reason="set up without a C++ compiler: no LIBERO here")
def test_libero_assets_are_looked_for_where_libero_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = "libero.libero" in sys.modules  # another test may have simulated
    missing = doctor.check_libero_assets()
    assert (missing.ok, missing.required) == (False, False)
    for folder in doctor.LIBERO_ASSET_FOLDERS:
        (tmp_path / ".cache" / "libero" / "assets" / folder).mkdir(parents=True)
    found = doctor.check_libero_assets()
    assert (found.ok, found.found) == (True, str(tmp_path / ".cache" / "libero" / "assets"))
    assert ("libero.libero" in sys.modules) == before


def test_a_warning_alone_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert doctor.main(["--only=libero assets"]) == 0


def test_one_line_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(NEEDS_NO_RENDERING) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NEEDS_NO_RENDERING)
    assert all(line.startswith(("✓ ", "! ")) for line in lines)


def test_only_problems_are_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--only=python", "--only-problems"]) == 0
    assert capsys.readouterr().out == ""


def test_a_terminal_without_unicode_is_served() -> None:
    done = run("--only=python", environment={"PYTHONIOENCODING": "ascii"})
    assert done.stdout.startswith("ok python")


def test_an_unknown_check_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        doctor.main(["--only=weather"])
    assert stopped.value.code == 2
    assert "rendering" in capsys.readouterr().err

"""What is shipped: the same files whichever way the package is installed, and nothing of the machine it was made on.

hatchling's way of failing is silent (a wheel without ``vla_cl.envs``), so it is built here and looked into.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("envs", "policies", "conf")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(target: str, source: Path, output: Path) -> Path:
    """Build with the installed hatchling, in place and without a network; give the archive."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(output)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = output.iterdir()
    return archive


def package_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel_of_source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source_archive = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(source_archive) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    return build("wheel", folder, tmp_path_factory.mktemp("wheel_of_sdist"))


def test_wheel_and_source_archive_and_checkout_hold_the_same_files(wheel: Path, wheel_of_source_archive: Path) -> None:
    checkout = {
        path.relative_to(ROOT).as_posix()
        for folder in (ROOT / "vla_cl", *(ROOT / "vla_cl" / name for name in LINKED))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert package_files(wheel) == checkout
    assert package_files(wheel_of_source_archive) == checkout


def test_the_editable_install_is_one_line_that_names_the_checkout(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel:editable", ROOT, tmp_path)) as archive:
        outside = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert outside == ["_vla_cl.pth"]
        assert archive.read(outside[0]).decode().split() == [str(ROOT)]


def test_the_wheel_installs_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert top == {"vla_cl", f"vla_cl-{PROJECT['version']}.dist-info"}


def test_the_wheel_holds_what_is_not_python(wheel: Path) -> None:
    names = package_files(wheel)
    assert "vla_cl/py.typed" in names
    assert {f"vla_cl/{name}/__init__.py" for name in LINKED} <= names
    yamls = {f"vla_cl/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert yamls
    assert yamls <= names
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_the_unpacked_wheel_is_imported_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import vla_cl.conf, vla_cl.envs, vla_cl.policies
print(*(module.__file__ for module in (vla_cl.conf, vla_cl.envs, vla_cl.policies)))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        str(tmp_path / "vla_cl" / name / "__init__.py") for name in ("conf", "envs", "policies")
    ]


@pytest.mark.parametrize("name", LINKED)
def test_the_links_are_relative_and_lead_to_the_folders(name: str) -> None:
    link = ROOT / "vla_cl" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert link.resolve() == ROOT / name


def shipped_texts() -> dict[str, str]:
    """Every text file that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and b"\0" not in (content := path.read_bytes()):
            texts[name] = content.decode()
    return texts


LEAK = re.compile(
    r"index[-_]url|extra[-_]index|https?://[^\s\"']*/simple\b|(?<![\w.~$}])/(?:root|home|work|Users)/[a-z._]"
)


def test_no_file_holds_an_index_address_or_a_path_of_a_machine() -> None:
    leaks = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in shipped_texts().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if LEAK.search(line)
    ]
    assert leaks == []


def test_leaks_are_recognised() -> None:
    folder = "home"
    assert LEAK.search(f"cd /{folder}/someone/project")
    assert LEAK.search("--" + "-".join(("index", "url")) + " x")
    assert LEAK.search("https://host.example" + "/simple/")
    assert not LEAK.search(f"$HOME/{folder}/x and vla_cl/{folder}/y")


def pins(path: Path) -> dict[str, str]:
    found = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", path.read_text(), flags=re.MULTILINE))
    assert len(found) > 100
    return found


def requirements(*extras: str) -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("all.txt", ("metaworld", "robosuite", "libero", "dev", "tensorboard")),
        ("without-libero.txt", ("metaworld", "robosuite", "dev", "tensorboard")),
    ],
)
def test_the_exact_versions_agree_with_the_project(name: str, extras: tuple[str, ...]) -> None:
    """After a change of pyproject.toml: make lock."""
    pinned = pins(ROOT / "requirements" / name)
    assert [str(wanted) for wanted in requirements(*extras) if wanted.name not in pinned] == []
    assert [str(wanted) for wanted in requirements(*extras) if not wanted.specifier.contains(pinned[wanted.name])] == []
    assert ("hf-libero" in pinned) == ("libero" in extras)
    assert "opencv-python-headless" in pinned
    assert "opencv-python" not in pinned


@pytest.mark.parametrize("name", ["all.txt", "without-libero.txt"])
def test_the_requirement_files_are_pins_with_hashes_only(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    entries = re.split(r"(?<!\\)\n", text.strip())
    assert len(entries) == len(pins(ROOT / "requirements" / name))
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text


def test_both_sets_have_the_same_versions() -> None:
    everything, fewer = (pins(ROOT / "requirements" / name) for name in ("all.txt", "without-libero.txt"))
    assert {name: version for name, version in fewer.items() if everything.get(name) != version} == {}


@pytest.mark.parametrize("command", ["install", "lock"])
def test_the_environment_of_another_checkout_is_never_emptied(tmp_path: Path, command: str) -> None:
    """A ``.venv`` that is a link belongs to the checkout that it leads to; `uv venv --clear` would go through it."""
    ours, theirs, programs = (tmp_path / name for name in ("ours", "theirs", "programs"))
    for folder in (ours, theirs, programs):
        folder.mkdir()
    for part in ("launch", "requirements"):
        shutil.copytree(ROOT / part, ours / part)
    shutil.copy(ROOT / "pyproject.toml", ours)
    (theirs / ".set-up-for").write_text(f"{theirs}\n")
    (theirs / "bin").mkdir()
    (theirs / "bin" / "python").symlink_to(sys.executable)
    (ours / ".venv").symlink_to(theirs)
    (programs / "uv").write_text('#!/bin/sh\necho "$@" >>uv-was-asked-for\n')
    (programs / "uv").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    script = ["bash", "launch/setup.sh", command]
    done = subprocess.run(script, cwd=ours, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f".venv is a link to {theirs}" in done.stderr
    assert (ours / "uv-was-asked-for").read_text() == "--version\n"
    assert {path.name for path in theirs.iterdir()} == {".set-up-for", "bin"}

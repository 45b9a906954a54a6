"""Two small datasets: pictures in the data files, and videos."""

import shutil

import pytest
from dataset_checks import EPISODES
from odd_datasets import make_dataset


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """One with pictures in its data files, one with videos."""
    folder = tmp_path_factory.mktemp("pristine")
    return {kind: make_dataset(folder / kind, EPISODES, video=kind == "video") for kind in ("image", "video")}


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine["image"], tmp_path / "d")


@pytest.fixture
def video(pristine, tmp_path):
    return shutil.copytree(pristine["video"], tmp_path / "v")

"""LIBERO's light assets for tests: unpacked once per session, or the reason why there are none."""

import shutil
import tarfile
from pathlib import Path

import pytest

PACK = Path(__file__).parents[3] / "shared" / "libero" / "assets-lite.tar.zst"


@pytest.fixture(scope="session")
def libero_assets(tmp_path_factory):
    """The folder of the assets, as `Libero` takes it."""
    if not PACK.is_file():
        pytest.skip(f"needs LIBERO's assets in {PACK.name}, which is not beside this checkout")
    import zstandard

    folder = tmp_path_factory.mktemp("libero")
    with (
        PACK.open("rb") as packed,
        zstandard.ZstdDecompressor().stream_reader(packed) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        archive.extractall(folder, filter="data")
    yield str(folder / "assets")
    shutil.rmtree(folder)

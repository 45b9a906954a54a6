"""Importing LIBERO without a question on the terminal, and finding the files that it draws with.

hf-libero 0.1.4 calls ``input()`` when it is imported and finds no configuration, and it downloads its meshes and
textures (the assets) when the first environment is built. Here a configuration is written first, into our own
cache, unless the user has one; and the assets are looked for, announced and, where that must be, downloaded before
anything is built.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from vla_cl.envs.libero_catalog import package_folder
from vla_cl.envs.rendering import choose_gl_backend, rendering_error
from vla_cl.files import write_text
from vla_cl.types import ConfigurationError

ASSETS_VARIABLE = "LIBERO_ASSETS"
HUB_DATASET = "lerobot/libero-assets"
PARTS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "turbosquid_objects")
"""Folders that every set of assets has."""


def import_libero(assets: Path | None) -> None:
    """Import LIBERO's environments and make sure that their assets are there. Later calls only check the assets.

    Args:
        assets: Folder of the assets; None looks beside the package and in hf-libero's cache, then asks the hub.

    Raises:
        ConfigurationError: LIBERO is not installed, cannot render, or its assets are not to be had.
    """
    package_folder()
    choose_gl_backend()
    _write_configuration()
    try:
        with _quiet():
            package = importlib.import_module("libero.libero")
            importlib.import_module("libero.libero.envs")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"LIBERO is not installed completely ({error.name} is missing); run `pip install 'vla-cl[libero]'`"
        ) from error
    except (ImportError, AttributeError, RuntimeError) as error:  # MuJoCo loads its GL back end when it is imported
        raise rendering_error(error) from error
    vars(package)["_assets_path_cache"] = str(assets_folder(assets))  # what its own look-up would remember


def assets_folder(assets: Path | None) -> Path:
    """The folder of the assets; downloads them if none was given and there is none on this machine.

    Raises:
        ConfigurationError: The folder given is no folder of assets, or the download failed.
    """
    if assets is not None:
        return _checked(assets.expanduser().resolve())
    found = _installed()
    if found is not None:
        return found
    hub_cache().parent.mkdir(parents=True, exist_ok=True)
    with FileLock(hub_cache().with_suffix(".lock")):  # workers start side by side
        return _installed() or _download()


def hub_cache() -> Path:
    """Where hf-libero itself keeps what it downloads."""
    return Path.home() / ".cache" / "libero" / "assets"


def _checked(folder: Path) -> Path:
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ConfigurationError(
            f"{folder} is not LIBERO's assets (no folder {', '.join(missing)}); set suite.assets or "
            f"{ASSETS_VARIABLE} to the folder that holds {', '.join(PARTS)}, or suite.assets=null for a download"
        )
    return folder


def _installed() -> Path | None:
    folders = (package_folder() / "assets", hub_cache())
    return next((folder for folder in folders if all((folder / part).is_dir() for part in PARTS)), None)


def _download() -> Path:
    """Fetch what hf-libero would fetch, with the hub's own progress bar; in its place only when it is whole."""
    target = hub_cache()
    partial = target if target.exists() else target.with_name("assets-partial")
    print(f"LIBERO's meshes and textures are downloaded once from the hub ({HUB_DATASET}) to {target}", file=sys.stderr)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(HUB_DATASET, repo_type="dataset", local_dir=partial)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigurationError(
            f"LIBERO's assets are not on this machine and could not be downloaded ({reason[0]}); connect to the hub, "
            f"or copy the dataset {HUB_DATASET} here and set suite.assets or {ASSETS_VARIABLE} to its folder"
        ) from error
    if partial != target:
        partial.rename(target)
    return _checked(target)


def _write_configuration() -> None:
    """Point LIBERO at a configuration of its own default paths in our cache, unless the user has one."""
    folder = Path(os.environ.get("LIBERO_CONFIG_PATH", Path.home() / ".libero"))
    if (folder / "config.yaml").is_file():
        return
    package = package_folder()
    paths = {
        "benchmark_root": package,
        "bddl_files": package / "bddl_files",
        "init_states": package / "init_files",
        "datasets": package.parent / "datasets",
        "assets": package / "assets",  # not read: what `import_libero` sets counts
    }
    text = json.dumps({key: str(value) for key, value in paths.items()})  # JSON is YAML
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla-cl"
    cache = Path(os.environ.get("VLA_CL_CACHE") or usual)
    private = cache / f"libero-{hashlib.sha256(text.encode()).hexdigest()[:16]}"  # one for each installation
    if not (private / "config.yaml").is_file():
        write_text(private / "config.yaml", text)
    os.environ["LIBERO_CONFIG_PATH"] = str(private)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without robosuite's advice about a file of private macros, which it gives by a deprecated method of logging."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)

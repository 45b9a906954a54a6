"""The suites that rows need, or a sentence that says why one is not to be had."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from vla_cl.bench import libero_in_forks
from vla_cl.bench.rows import CannotRunError, RowSettings
from vla_cl.interfaces import Suite
from vla_cl.types import ConfigurationError


def metaworld_suite(image_size: int, render_profile: str) -> Suite:
    """Of the tasks of Meta-World."""
    from vla_cl.envs.metaworld import MetaWorld

    return MetaWorld(image_size=image_size, render_profile=render_profile)


def robosuite_suite(image_size: int, render_profile: str) -> Suite:
    """Of the tasks of robosuite."""
    from vla_cl.envs.robosuite import Robosuite

    return Robosuite(image_size=image_size, render_profile=render_profile)


def libero_suite(suite: str, settings: RowSettings, image_size: int, render_profile: str) -> Suite:
    """One of LIBERO's suites; its assets are looked for, never downloaded.

    Raises:
        CannotRunError: LIBERO or its assets are missing.
    """
    from vla_cl.envs.libero import Libero
    from vla_cl.envs.libero_catalog import package_folder
    from vla_cl.envs.libero_package import ASSETS_VARIABLE, PARTS, hub_cache, import_libero

    given = settings.libero_assets or os.environ.get(ASSETS_VARIABLE)
    try:
        places = [given] if given else [package_folder() / "assets", hub_cache()]
    except ConfigurationError as error:
        raise CannotRunError(str(error)) from error
    for folder in map(str, places):
        if all(os.path.isdir(os.path.join(folder, part)) for part in PARTS):  # noqa: PTH112, PTH118
            import_libero(Path(folder))  # for the peers as well: by itself, LIBERO would ask a question
            os.environ[libero_in_forks.VARIABLE] = folder
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["__main__", libero_in_forks.__name__])
            return Libero(suite, image_size=image_size, render_profile=render_profile, assets=folder)
    raise CannotRunError(f"LIBERO's assets are not here; set libero_assets or {ASSETS_VARIABLE} to their folder")

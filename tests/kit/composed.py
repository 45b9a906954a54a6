"""Settings for tests that learn many times: each list of overrides is composed once per process, which takes 0.1 s."""

import copy
from functools import cache
from pathlib import Path

from vla_cl.config.compose import compose


@cache
def _composed(overrides, folders):
    return compose(list(overrides), folders=list(folders))


def composed(*overrides, folders=(), cache_dir=None, output_dir=None):
    """What ``compose`` gives for these overrides, with the folders of this one test."""
    settings = copy.deepcopy(_composed(overrides, tuple(folders)))
    for name, folder in (("cache_dir", cache_dir), ("output_dir", output_dir)):
        if folder is not None:
            settings[name] = str(Path(folder))
    return settings

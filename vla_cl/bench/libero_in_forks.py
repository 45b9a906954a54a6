"""Tells LIBERO where its assets are, in processes that fork from a server which imports this module first.

LeRobot's asynchronous environments are made in such processes. hf-libero has no setting for the folder; elsewhere
`vla_cl.envs.libero_package` tells it. Imports neither MuJoCo nor a GL back end, which do not survive a fork.
"""

import os

VARIABLE = "VLA_CL_BENCH_LIBERO_ASSETS"
"""Holds the folder; where it is not set, nothing is imported."""

if VARIABLE in os.environ:
    import libero.libero

    libero.libero._assets_path_cache = os.environ[VARIABLE]

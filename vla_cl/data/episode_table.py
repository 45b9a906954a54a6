"""The table of episodes of a LeRobotDataset (``meta/episodes``), without the statistics of each episode."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from vla_cl.data.column_values import integers, scalars
from vla_cl.data.dataset_info import REMEDY
from vla_cl.trust.paths import inside
from vla_cl.trust.tables import open_table
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

_WHOLE = ("episode_index", "length", "dataset_from_index", "dataset_to_index")


def read_episodes(root: Path) -> pd.DataFrame:
    """One row per episode in the order of their numbers: length, and where data and videos lie.

    Raises:
        ConfigurationError: There is no table, it lacks what is needed, or it contradicts itself.
    """
    files = sorted(path for path in (root / "meta" / "episodes").glob("*/*.parquet") if path.name[0] != ".")
    if not files:
        raise ConfigurationError(f"the dataset {short(root)} has no episodes (meta/episodes is empty); {REMEDY}")
    files = [inside(root, path.relative_to(root).as_posix(), f"the dataset {short(root)}") for path in files]
    table = pd.concat([_read(root, path) for path in files], ignore_index=True)
    table = table.sort_values("episode_index", ignore_index=True)
    twice = table["episode_index"].duplicated()
    if twice.any():
        number = table.loc[twice, "episode_index"].iloc[0]
        raise ConfigurationError(f"{short(root)}: meta/episodes has episode {number} twice; {REMEDY}")
    if (table["length"] < 0).any():
        number = table.loc[table["length"] < 0, "episode_index"].iloc[0]
        raise ConfigurationError(f"{short(root)}: meta/episodes gives episode {number} a negative length; {REMEDY}")
    if {"dataset_from_index", "dataset_to_index"} <= set(table.columns):
        wrong = table["dataset_to_index"] - table["dataset_from_index"] != table["length"]
        if wrong.any():
            row = table.loc[wrong].iloc[0]
            raise ConfigurationError(
                f"{short(root)}: meta/episodes gives episode {row['episode_index']} {row['length']} frames, from index "
                f"{row['dataset_from_index']} to {row['dataset_to_index']}; {REMEDY}"
            )
    return table


def _read(root: Path, path: Path) -> pd.DataFrame:
    with open_table(path, "the table of episodes", REMEDY) as file:
        names = [name for name in file.schema.names if name in _WHOLE or name.startswith(("data/", "videos/"))]
        file.require_columns(["episode_index", "length"])
        found: pa.Table = file.file.read(columns=names, use_threads=False)
    columns = {}
    for name in names:
        shown = f"{harmless(name, 60)!r} in meta/episodes of {short(root, 70)}"
        read = integers if name in _WHOLE or name.endswith("_index") else scalars
        if name.endswith(("_index", "_timestamp", "length")) and not found[name].null_count:
            columns[name] = read(found[name], shown)
        elif name in _WHOLE:
            raise ConfigurationError(f"{shown} has empty places; {REMEDY}")
        else:  # a camera that an episode does not have
            columns[name] = pd.to_numeric(found[name].to_pandas(), errors="coerce").to_numpy()
    return pd.DataFrame(columns)

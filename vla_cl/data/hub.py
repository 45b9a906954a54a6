"""Datasets on the hub: their metadata come first, and the rest only once nothing speaks against it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

HUB_NAME = r"[\w][\w.-]*/[\w][\w.-]*"
REVISIONS = ("v3.0", "main")
"""LeRobot tags a dataset with the version of its format; those that are not tagged are taken as they are."""

META = ("meta",)
WHOLE = (*META, "data", "videos", "images")
"""Folders of a dataset."""


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the hub whose metadata are here.

    Attributes:
        name: ``user/name``.
        revision: Its tag or branch.
        root: Where its metadata lie, and the rest will.
    """

    name: str
    revision: str
    root: Path


def datasets_home() -> Path:
    """LeRobot's own folder of datasets, as its ``HF_LEROBOT_HOME`` says."""
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_LEROBOT_HOME") or cache / "lerobot").expanduser()


def hub_folder() -> Path:
    """Where downloads lie."""
    return datasets_home() / "hub"


def fetch_metadata(name: str) -> HubDataset:
    """Download the metadata of a dataset, and look at its description.

    Raises:
        ConfigurationError: There is none, it cannot be reached, or it is of another format.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    from vla_cl.data.dataset_folder import DatasetFolder  # pandas and PyAV

    with _in_a_sentence(name):
        for revision in REVISIONS:
            try:
                root = _fetch(name, revision, META)
            except RevisionNotFoundError:
                continue
            if not (root / "meta" / "info.json").is_file():
                raise ConfigurationError(f"{name!r} on the hub is no LeRobotDataset: it has no meta/info.json")
            DatasetFolder(root)
            return HubDataset(name, revision, root)
    raise ConfigurationError(f"{name!r} on the hub has neither a tag v3.0 nor a branch main; give another dataset")


def fetch_whole(dataset: HubDataset) -> Path:
    """Download what is not here yet; the dataset's folder.

    Raises:
        ConfigurationError: It cannot be reached.
    """
    with _in_a_sentence(dataset.name):
        return _fetch(dataset.name, dataset.revision, WHOLE)


def bytes_to_fetch(dataset: HubDataset) -> int | None:
    """Bytes that are not here yet, by the hub's listing; None if the hub does not tell.

    0 where the hub cannot be asked: then nothing can be downloaded either.

    Raises:
        ConfigurationError: The hub refuses.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    with _in_a_sentence(dataset.name):
        try:
            listing = snapshot_download(dataset.name, dry_run=True, **_wanted(dataset.revision, WHOLE))
        except DryRunError:  # offline: what is here is used
            return 0
    if not isinstance(listing, list):
        return None
    return sum(file.file_size or 0 for file in listing if file.will_download)


def _fetch(name: str, revision: str, folders: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(str(snapshot_download(name, **_wanted(revision, folders))))


def _wanted(revision: str, folders: tuple[str, ...]) -> dict[str, Any]:
    return {
        "repo_type": "dataset",
        "revision": revision,
        "cache_dir": hub_folder(),
        "allow_patterns": [f"{folder}/*" for folder in folders],
    }


@contextmanager
def _in_a_sentence(name: str) -> Iterator[None]:
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except ConfigurationError:  # it is a ValueError too, and says already what is wrong
        raise
    except (OSError, HFValidationError) as error:
        reason = harmless(" ".join(str(error).split()), 90)
        raise ConfigurationError(
            f"{harmless(name, 80)!r} is not a folder here and could not be fetched from the hub ({reason}); check the "
            "name and the connection, or copy the dataset and give its folder"
        ) from error

"""Policies on the hub: their files are fetched, and only looked at once they lie on this disk."""

from __future__ import annotations

import re
from pathlib import Path

from vla_cl.trust.text import harmless, told_as
from vla_cl.types import ConfigurationError

POLICY_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What is fetched: no Python and no pickle."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.\-]{0,95}")


def fetch_policy(name: str) -> Path:
    """The folder of a hub policy in the hub's cache; downloaded unless it lies there.

    Raises:
        ConfigurationError: It is no hub name, or the hub has no such policy or cannot be reached.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{harmless(name, 100)!r} is neither a folder here nor a hub name like user/policy; or say 'random' to act "
            "at random"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    with told_as(
        f"{harmless(name, 80)!r} is no folder here and cannot be had from the hub",
        "check the name, the connection and, for a private policy, `hf auth login`",
        HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError,
    ):  # fmt: skip
        return Path(snapshot_download(name, allow_patterns=list(POLICY_FILES), ignore_patterns=["*/*"]))

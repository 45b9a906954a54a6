"""Weights in PyTorch's own format, which is a pickle: only torchvision's, whose name holds the hash of their content.

LeRobot's policies with a ResNet have torchvision load it from torch's cache, and torch looks at the hash only when it
downloads. So the file is looked at here before anything loads it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from vla_cl.trust.reading import require_file
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError

WEIGHTS_BYTES = 8 * 2**30
"""Largest file; torchvision's largest network has 2.6 GB."""

_HASH = re.compile(r"-([0-9a-f]{8,64})\.")


def check_torch_weights(path: Path, remedy: str) -> None:
    """Refuse a file whose content is not what its name says. Whoever loads it then asks for tensors only.

    Args:
        path: ``resnet18-f37072fd.pth``: after the hyphen, the first digits of the SHA-256 of the content.
        remedy: What to do, for the message.

    Raises:
        ConfigurationError: It is no file, is too large, or its name has no hash or that of another content.
    """
    require_file(path, "the weights", remedy, WEIGHTS_BYTES)
    named = _HASH.search(path.name)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if named is None or not found.startswith(named[1]):
        raise ConfigurationError(
            f"the weights {short(path)} are damaged or something else: their name says another content (SHA-256 "
            f"{found[:8]}...); {remedy}"
        )

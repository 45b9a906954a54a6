"""What a policy reads of an instruction: two tasks that it cannot tell apart are one to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla_cl.models.policy_types import INSTRUCTION_BYTES
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

_SHOWN = 40


def require_told_apart(config: Any, instructions: Sequence[str]) -> str | None:  # noqa: ANN401 - LeRobot's
    """Refuse tasks whose instructions are the same as far as the policy reads them.

    Types that read a number of tokens instead of bytes are let pass: their tokenizer may not be on this machine.

    Args:
        config: The policy's configuration.
        instructions: Of all tasks of a stream.

    Returns:
        A sentence if longer ones are cut and can still be told apart; None if all are read whole.

    Raises:
        ConfigurationError: Two cannot be told apart.
    """
    field = INSTRUCTION_BYTES.get(config.type)
    if field is None:
        return None
    most = int(getattr(config, field))
    read: dict[bytes, str] = {}
    for text in dict.fromkeys(instructions):
        other = read.setdefault(text.encode("utf-8", "replace")[:most], text)
        if other != text:
            longest = max(len(each.encode("utf-8", "replace")) for each in instructions)
            raise ConfigurationError(
                f"policy {config.type!r} reads {most} bytes of an instruction, and in these the tasks "
                f"{_end(other)!r} and {_end(text)!r} are the same; set policy.{field}={longest}, or shorten them"
            )
    cut = [text for text in read.values() if len(text.encode("utf-8", "replace")) > most]
    if not cut:
        return None
    longest = max(len(text.encode("utf-8", "replace")) for text in cut)
    return (
        f"policy {config.type!r} reads {most} bytes of an instruction, and {len(cut)} of {len(read)} tasks have more; "
        f"policy.{field}={longest} reads them whole"
    )


def _end(text: str) -> str:
    """The last characters: the first ones are the same."""
    return harmless(text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}", _SHOWN + 3)

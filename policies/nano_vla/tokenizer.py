"""A tokenizer that never grows: an instruction is the bytes of its UTF-8 text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PAD = 256
"""The token behind the last byte."""

VOCABULARY_SIZE = 257
"""256 bytes and the padding token."""


def tokenize(instructions: Sequence[str], max_bytes: int) -> Tensor:
    """Turn instructions into byte tokens.

    Args:
        instructions: Free text, in any language.
        max_bytes: Length of every row; longer instructions are cut, shorter ones padded.

    Returns:
        int64 (len(instructions), max_bytes), each entry a byte or `PAD`.
    """
    tokens = torch.full((len(instructions), max_bytes), PAD, dtype=torch.int64)
    for row, instruction in enumerate(instructions):
        encoded = instruction.encode("utf-8", errors="replace")[:max_bytes]
        tokens[row, : len(encoded)] = torch.tensor(list(encoded), dtype=torch.int64)
    return tokens


def distinct(instructions: Sequence[str]) -> tuple[list[str], list[int]]:
    """Find the different instructions of a batch, so that each is encoded once.

    Returns:
        The different instructions in the order of first appearance, and each entry's place among them.
    """
    places: dict[str, int] = {}
    rows = [places.setdefault(instruction, len(places)) for instruction in instructions]
    return list(places), rows

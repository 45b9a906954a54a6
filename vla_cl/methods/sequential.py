"""Sequential fine-tuning: nothing is done against forgetting. The lower reference."""

from __future__ import annotations

from vla_cl.interfaces import Method


class Sequential(Method):
    """The training loop, unedited."""

    name = "sequential"

"""Another name of `vla_cl.memory.replay_memory.ReplayMemory`, and the rules that need nothing but the data's length."""

from __future__ import annotations

from typing import Literal

from vla_cl.memory.replay_memory import ReplayMemory

Selection = Literal["first", "uniform"]
SELECTIONS: tuple[Selection, ...] = ("first", "uniform")
SampleMemory = ReplayMemory

__all__ = ["SELECTIONS", "SampleMemory", "Selection"]

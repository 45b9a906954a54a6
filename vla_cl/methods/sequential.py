"""Sequential fine-tuning: nothing is done against forgetting. The lower reference."""

from __future__ import annotations

from vla_cl.interfaces import Method
from vla_cl.types import MethodCard


class Sequential(Method):
    """The training loop, unedited."""

    name = "sequential"
    card = MethodCard(
        title="Sequential fine-tuning",
        paradigm="reference",
        equation=r"\ell_t(\theta)",
        source="the lower reference of every study",
        step="1",
        memory="0",
        follows="the training loop as it is. Not followed: nothing.",
    )

    @property
    def acts(self) -> bool:
        """It never edits anything."""
        return False

    @property
    def works_alone(self) -> bool:
        """It is what the other arrangements are references with."""
        return True

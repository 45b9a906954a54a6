"""A method of one's own: weights are pulled back to where the last task left them, each alike.

    python examples/own_method.py

To give it a name on the command line, write a yaml with ``name: pull_back`` and ``class: my_package.module:PullBack``
into a folder ``my_conf/method/`` and run ``vla-cl train --conf my_conf plugins=[my_package] method=pull_back``.
"""

from pathlib import Path

import torch
from torch import Tensor

from vla_cl.families.beds import BedFamily
from vla_cl.interfaces import Data, Method
from vla_cl.library import TrainingSettings, learn_stream
from vla_cl.metrics import compute_all, load_matrix
from vla_cl.types import Experience


class PullBack(Method):
    """``loss + strength / 2 |theta - theta_last|^2``, as its gradient.

    Args:
        strength: Of the pull.
    """

    name = "pull_back"

    def __init__(self, strength: float = 0.01) -> None:
        self.strength = strength
        self._last: dict[str, Tensor] = {}

    def begin_task(self, experience: Experience) -> None:
        """Note where the weights are; in the first task nothing pulls."""
        learning = self.model.module.named_parameters()
        self._last = {name: p.detach().clone() for name, p in learning if experience.index and p.requires_grad}

    def edit_gradients(self) -> None:
        """Add ``strength * (theta - theta_last)``."""
        parameters = dict(self.model.module.named_parameters())
        with torch.no_grad():
            for name, last in self._last.items():
                if (gradient := parameters[name].grad) is not None:
                    gradient.add_(parameters[name] - last, alpha=self.strength)

    def end_task(self, experience: Experience, data: Data) -> None:
        """What was noted is no longer needed."""
        self._last = {}


def main(folder: Path | str = "outputs", steps: int = 200) -> float:
    """Three pictures-and-words tasks of a small robot policy; the held-out loss at the end."""
    training = TrainingSettings(steps=steps, batch_size=32, learning_rate=3e-3)
    run = learn_stream(BedFamily("policy_regression"), PullBack(), Path(folder) / "dots-pull-back", training)
    return compute_all(load_matrix(run))["final_average"].value


if __name__ == "__main__":
    print(f"held-out loss over all three tasks: {main():.3f}")

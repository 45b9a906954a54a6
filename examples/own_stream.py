"""A stream of one's own: the same tasks in another order. Does forgetting depend on the order?

python examples/own_stream.py
vla-cl report outputs/alphabets-forwards outputs/alphabets-backwards
"""

from pathlib import Path

from vla_cl.families.beds import BedFamily
from vla_cl.library import TrainingSettings, learn_stream
from vla_cl.methods.sequential import Sequential
from vla_cl.metrics import compute_all, load_matrix


def main(folder: Path | str = "outputs", steps: int = 200) -> list[Path]:
    """Learn three secret alphabets from the first to the last, and from the last to the first."""
    family = BedFamily("language")
    tasks = [task.id for task in family.tasks()]
    orders = {"forwards": tasks, "backwards": tasks[::-1]}
    training = TrainingSettings(steps=steps, learning_rate=5e-3)
    return [
        learn_stream(family, Sequential(), Path(folder) / f"alphabets-{name}", training, tasks=order)
        for name, order in orders.items()
    ]


if __name__ == "__main__":
    for run in main():
        print(run, "forgot", compute_all(load_matrix(run))["simple_recipe_nbt"].value)

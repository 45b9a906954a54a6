"""A loop of one's own over the steps of the one training loop: nothing is read from files, nothing is written.

python examples/own_loop.py
"""

from vla_cl.methods.er import ExperienceReplay
from vla_cl.testbeds import BEDS
from vla_cl.training.learning import Learning, TrainingSettings

STEPS = 150


def main(steps: int = STEPS) -> list[list[float]]:
    """Learn three codes with replay; the held-out loss of each task met so far, after each."""
    bed = BEDS["language"]()
    model, method = bed.make_model(0), ExperienceReplay(memory={"samples_per_task": 100})
    method.attach(model, train_seed=0)
    settings = TrainingSettings(steps=steps, batch_size=32, learning_rate=5e-3)
    rows = []
    for number, experience in enumerate(bed.stream):
        learning = Learning(model, method, experience, bed.data[number], settings, 0, first_step=number * steps)
        for report in learning:
            if report.step == report.total:
                print(f"{experience.name}: loss {report.loss:.3f} after {report.step} steps")
        rows.append([bed.score(model, task) for task in range(number + 1)])
        print("  held-out losses:", ", ".join(f"{score:.3f}" for score in rows[-1]))
    return rows


if __name__ == "__main__":
    main()

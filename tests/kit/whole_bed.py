"""A test bed that is scored on all of its held-out samples, for tests in which nothing is selected."""

from functools import cache

from vla_cl.evaluation.held_out import HeldOutEvaluator
from vla_cl.families.beds import BedFamily
from vla_cl.library import EvaluationPlan, learn_stream
from vla_cl.testbeds import BEDS
from vla_cl.testbeds.bed import LOSS, held_out_loss


@cache
def bed_named(name):
    return BEDS[name]()


class AllSamples(HeldOutEvaluator):
    """All are reported: the last quarter, which otherwise selects, too."""

    def units(self, task, split, count):
        assert count == len(self._batches[task.id]["task"])
        return range(count)


class WholeBed(BedFamily):
    """The bed's family, scored by the loss alone."""

    def evaluator(self):
        bed = bed_named(self.bed)
        batches = {task.id: batch for task, batch in zip(bed.stream.tasks, bed.held_out, strict=True)}
        return AllSamples(batches, [(LOSS, held_out_loss)])


def learnt_stream(bed, method, folder, training, train_seed=0, untrained=False):
    """Learn the bed's three tasks and score all of them after each, in a new folder."""
    plan = EvaluationPlan(len(bed_named(bed).held_out[0]["task"]), future_tasks=True, untrained=untrained)
    return learn_stream(WholeBed(bed), method, folder, training, plan=plan, train_seed=train_seed)

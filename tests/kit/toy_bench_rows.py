"""Rows that take no time. In a module of its own, because rows are measured in processes of their own."""

import os
import time

from vla_cl.bench.rows import CannotRunError, Figure, Gate, Ratio, Result, Row


def _row(name, goal="any"):
    return Row(goal, f"toy_bench_rows:{name}", "one", 0.1)


def good(settings):
    return result(Gate("everything", True, "3 things"), holds=True)


def slow_peer(settings):
    return result(Gate("everything", True, "3 things"), holds=False)


def unequal(settings):
    return result(Gate("everything", False, "thing 2 differs"), holds=True)


def missing(settings):
    raise CannotRunError("there are no assets; set assets")


def crashing(settings):
    raise ArithmeticError("unstable")


def dying(settings):
    os._exit(7)


def endless(settings):
    time.sleep(1000)


def threads(settings):
    value = int(os.environ["OMP_NUM_THREADS"])
    return Result("threads", None, None, [Figure("threads", value, "threads")], None)


def result(gate, holds):
    figures = [Figure("ours", 4.0, "m/s"), Figure("theirs", 2.0, "m/s")]
    return Result(
        "a toy", gate, Ratio(2.0, 1.9, 2.1, 10), figures, holds, {"a part": "1 s (50%)"}, {"another": Ratio(3, 3, 3, 1)}
    )


NAMES = ("good", "slow_peer", "unequal", "missing", "crashing", "dying", "endless", "threads")
ROWS = {name: _row(name) for name in NAMES}

"""One function gives every random number, and no two purposes share any."""

import ast
import itertools
from pathlib import Path

import numpy as np

import vla_cl
from vla_cl.random_numbers import Purpose, generator, number

PACKAGE = Path(vla_cl.__file__).parent
SIMULATORS = "envs"
"""A benchmark's own seeds are part of its definition."""

MAKERS = {"default_rng", "SeedSequence", "RandomState", "manual_seed", "manual_seed_all", "set_rng_state"}
ALLOWED = {
    ("random_numbers.py", "default_rng"),  # the one function
    ("models/randomness.py", "manual_seed"),  # torch's generators, each seeded with a `number`
    ("models/diffusion.py", "manual_seed"),
    ("interfaces/model.py", "manual_seed"),
    ("models/llm.py", "manual_seed"),
    ("testbeds/policy.py", "manual_seed"),
    ("testbeds/language.py", "manual_seed"),
    ("testbeds/diffusion.py", "manual_seed"),
}


def test_no_two_purposes_share_their_first_draws():
    small = [indices for length in range(4) for indices in itertools.product(range(3), repeat=length)]
    streams = [(seed, purpose, *indices) for seed in range(3) for purpose in Purpose for indices in small]
    first = {tuple(generator(*stream).integers(2**63, size=2).tolist()) for stream in streams}
    assert len(first) == len(streams)
    numbers = {number(*stream) for stream in streams}
    assert len(numbers) == len(streams)
    assert not numbers & {value for pair in first for value in pair}


def test_an_index_of_zero_is_not_none():
    assert generator(0, Purpose.LOSS).random() != generator(0, Purpose.LOSS, 0).random()
    assert generator(0, Purpose.LOSS, 1).random() != generator(0, Purpose.LOSS, 1, 0).random()
    assert generator(2**32, Purpose.LOSS).random() != generator(0, Purpose.LOSS, 1).random()
    assert generator(1, Purpose.LOSS, 23).random() != generator(1, Purpose.LOSS, 2, 3).random()
    assert generator(0, Purpose.LOSS, -1).random() != generator(0, Purpose.LOSS, 1).random()


def test_streams_are_the_same_on_every_machine():
    assert generator(3, Purpose.ROW_ORDER, 1, 2).permutation(8).tolist() == [6, 1, 2, 3, 0, 4, 5, 7]
    assert number(3, Purpose.LOSS, 1, 2, 0) == 7461632393922378315
    assert min(number(seed, Purpose.LOSS) for seed in range(100)) >= 0
    assert max(number(seed, Purpose.LOSS) for seed in range(100)) < 2**63


def test_a_whole_number_of_numpy_is_the_same_as_pythons():
    assert number(np.int64(3), Purpose.LOSS, np.int32(1)) == number(3, Purpose.LOSS, 1)


def test_every_purpose_is_somebodys():
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "random_numbers.py")
    assert [purpose.name for purpose in Purpose if f"Purpose.{purpose.name}" not in source] == []


def test_nothing_else_makes_a_generator():
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith((f"{SIMULATORS}/", "bench/")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and (node.attr in MAKERS or ast.unparse(node) == "np.random.seed"):
                found.add((name, node.attr))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"seeded", "keyed", "Draw"}:
                assert not isinstance(node.args[0], ast.Constant), f"{name} seeds with a number of its own"
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
                assert not imported & {"random", "numpy.random", "default_rng"}, f"{name} draws past random_numbers"
    assert found == ALLOWED

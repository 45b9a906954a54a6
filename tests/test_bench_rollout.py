import json
import os
from pathlib import Path

import pytest
from toy_bench_rows import ROWS as TOY_ROWS
from toy_bench_rows import good, unequal

from vla_cl.bench import rollout
from vla_cl.bench.episodes import differing
from vla_cl.bench.measuring import ratio, shares, take_turns
from vla_cl.bench.rows import ROWS, chosen
from vla_cl.cli.main import main
from vla_cl.types import ConfigurationError


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent / "kit"), str(Path(__file__).parent)]))

    def run(*names, **overrides):
        output = tmp_path / "bench.json"
        words = [
            f"rows=[{','.join(names)}]",
            f"output={output}",
            *(f"{key}={value}" for key, value in overrides.items()),
        ]
        stored, reached = rollout.main(words, rows=TOY_ROWS)
        assert stored == output
        status = 0 if reached else 1
        return status, json.loads(output.read_text()), capsys.readouterr()

    return run


def test_a_row_is_measured_stored_and_shown(bench):
    status, stored, (shown, progress) = bench("good")
    assert status == 0
    row = stored["good"]
    assert row["ratio"] == {"median": 2.0, "low": 1.9, "high": 2.1, "turns": 10}
    assert row["holds"] and row["gate"]["passed"] and not row["quick"]
    assert row["figures"][0] == {"who": "ours", "value": 4.0, "unit": "m/s"}
    assert {"goal", "took_seconds", "when", "machine", "versions"} <= set(row)
    assert "2x  (1.9 to 2.1)" in shown and "passed" in shown and "a part 1 s (50%)" in shown
    assert "row 1 of 1: good" in progress


def test_rows_that_are_not_measured_again_stay(bench):
    bench("good")
    before = bench("slow_peer")[1]["good"]
    status, stored, _ = bench("slow_peer")
    assert list(stored) == ["good", "slow_peer"]
    assert stored["good"] == before
    assert status == 1  # its goal is not reached


def test_a_failed_gate_voids_the_ratio(bench):
    status, stored, (shown, _) = bench("unequal")
    assert status == 1
    assert stored["unequal"]["ratio"] is None and stored["unequal"]["others"] == {} and not stored["unequal"]["holds"]
    assert "FAILED: void" in shown and "thing 2 differs" in shown
    assert unequal(None).ratio is not None and good(None).as_json()["ratio"] is not None


def test_a_row_that_cannot_run_says_why_and_the_others_go_on(bench):
    status, stored, (shown, _) = bench("missing", "crashing", "dying", "good", quick=True)
    assert status == 1
    assert stored["missing"]["cannot_run"] == "there are no assets; set assets"
    assert stored["crashing"]["cannot_run"] == "ArithmeticError: unstable"
    assert "status 7" in stored["dying"]["cannot_run"]
    assert stored["good"]["holds"]
    assert "quick: no figure counts" in shown


def test_a_row_that_takes_too_long_is_stopped(bench):
    _, stored, _ = bench("endless", row_minutes=0.05)
    assert "row_minutes" in stored["endless"]["cannot_run"]


def test_a_row_for_one_core_has_one_thread(bench, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert bench("threads")[1]["threads"]["figures"][0]["value"] == 1


def test_rows_are_chosen_by_name_or_beginning():
    assert chosen(None) == list(ROWS)
    assert chosen(["metaworld-1"]) == ["metaworld-1"]
    assert chosen(["layouts", "metaworld"]) == [
        "metaworld-10",
        "metaworld-50",
        "metaworld-1",
        "metaworld-state",
        "layouts",
    ]
    assert chosen("memory") == ["memory-metaworld", "memory-robosuite", "memory-libero"]
    for nothing in (["metaworlds"], [""]):
        with pytest.raises(ConfigurationError, match="there are metaworld-10"):
            chosen(nothing)


def test_every_row_names_a_function():
    import importlib

    for row in ROWS.values():
        module, function = row.measure.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_bad_settings_are_refused(tmp_path, capsys):
    assert main(["bench", "rollout", "rows=[nothing]"]) == 2
    assert "no row 'nothing'" in capsys.readouterr().err
    (tmp_path / "bench.json").write_text("no json")
    assert main(["bench", "rollout", "rows=[early]", f"output={tmp_path / 'bench.json'}"]) == 2
    assert "is not JSON" in capsys.readouterr().err
    assert main(["bench", "rollout", f"libero_assets={tmp_path / 'nowhere'}"]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_turns_alternate_and_ratios_are_per_turn():
    order = []

    def side(name, figures):
        return lambda turn: order.append((name, turn)) or figures[turn]

    figures = take_turns({"ours": side("a", [1.0, 2.0, 1.0]), "theirs": side("b", [3.0, 4.0, 5.0])}, 3)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    found = ratio(figures["ours"], figures["theirs"])
    assert (found.median, found.turns) == (3.0, 3)
    assert 2.0 <= found.low <= 3.0 <= found.high <= 5.0


def test_shares_add_up():
    assert shares({"pictures": 6.0, "policy": 3.0, "resets": 0.0}, 10.0) == {
        "pictures": "6.00 s (60%)", "policy": "3.00 s (30%)", "the rest": "1.00 s (10%)",
    }  # fmt: skip


def test_differing_rows_are_counted_whatever_the_order():
    table = [(f"t/{state}", "report", state, "success", 5, 1, 2.5) for state in range(4)]
    assert differing(table[::-1], table) == 0
    changed = (*table[1][:6], 2.500000001)
    assert differing([table[0], changed, *table[2:]], table) == 1
    assert differing(table[1:], table) == 1

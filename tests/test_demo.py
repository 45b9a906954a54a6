"""The demo on the toy suite: what it says at its end."""

from pathlib import Path

from vla_cl.cli.main import main

CONF = ["--conf", str(Path(__file__).parent / "conf")]
TOY = ["plugins=[toy_world]", "suite=point", "stream=points", "policy=tiny", "evaluation.episodes=2", "device=cpu",
       "evaluation.replan_every=2", "evaluation.workers=1", "demonstrations.episodes=2", "demonstrations.workers=1",
       "training.steps=2", "training.batch_size=4", "evaluation.curve_points=0", "threads=1",
       "~suite.image_size", "policy.image_size=16"]  # fmt: skip


def test_the_demo_says_what_came_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *CONF, *TOY, f"cache_dir={tmp_path / 'cache'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = (number for number, line in enumerate(lines) if line.startswith("success at the end (final_average)"))
    assert lines[head + 1].split()[:3] == ["method", "seeds", "final_average"]
    assert {line.split()[0] for line in lines[head + 2 : head + 4]} == {"sequential", "er"}
    assert all(line.count("[") == 2 for line in lines[head + 2 : head + 4])
    assert lines[-1] == "outputs/demo/report.html"

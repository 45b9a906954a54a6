"""``vla-cl evaluate`` of a policy that lies in a run: its suite, its tasks, its method, its damage."""

import json
import shutil

import pytest
import torch
import yaml
from evaluation_commands import CONF, evaluate, new_policy, rows, save_policy, summary
from toy_world import PointSuite

from vla_cl.cli.main import main
from vla_cl.interfaces import Method
from vla_cl.methods.packnet import PackNet
from vla_cl.rollout.engine import Engine
from vla_cl.run import checkpoint
from vla_cl.run.location import compose_evaluation, find_run
from vla_cl.storage.manifest import seal
from vla_cl.types import ConfigurationError, Experience


class Told(Method):
    """Keeps one number per task, and puts that of the task served into the first weight of the model."""

    name = "told"
    task_id_at_test = True

    def __init__(self, served: list | None = None):
        self.numbers = {task: torch.tensor([float(place)]) for place, task in enumerate(served or [], start=3)}

    def select_task(self, task):
        if task is not None and task.id not in self.numbers:
            raise ConfigurationError(f"method 'told' has not learnt {task.id}")
        with torch.no_grad():
            first_weight(self.model)[0] = 0.0 if task is None else self.numbers[task.id][0]

    def state_dict(self):
        return self.numbers

    def extra_state(self):
        return {"order": list(self.numbers)}

    def load_state_dict(self, state, extra, past):
        assert list(past) == []
        self.numbers = {task: state[task] for task in extra["order"]}


def first_weight(model):
    return next(iter(model.module.parameters())).view(-1)


SEQUENTIAL = {"name": "sequential", "class": "vla_cl.methods.sequential:Sequential"}
TROUBLED = {"name": "of the past", "class": "troubled_suite:TroubledSuite", "seconds": 0.001, "crashes": []}
TOLD = {"name": "told", "class": f"{__name__}:Told"}
SHORT = ["evaluation.episodes=1", "evaluation.workers=1", "device=cpu"]


def make_run(root, model, method=None, suite=TROUBLED, method_settings=SEQUENTIAL):
    """A run's folder after its only experience, red and green."""
    from vla_cl.methods.sequential import Sequential

    root.mkdir()
    settings = {"suite": suite, "method": method_settings, "train_seed": 3, "plugins": ["troubled_suite", __name__],
                "evaluation": {"replan_every": 3}}  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(settings))
    (root / "run.json").write_text(json.dumps({"tasks": [{"id": "point/red"}, {"id": "point/green"}]}))
    checkpoint.save(root / "checkpoints", model, method or Sequential(), checkpoint.Progress(1, 1, 0.0, 0.0))
    return root


def evaluate_plainly(policy, folder, *overrides):
    """The command without the settings that say which suite it is."""
    return main(["evaluate", "--conf", str(CONF), str(policy), *SHORT, f"output_dir={folder}", *overrides])


def identity(folder):
    return json.loads((folder / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", new_policy("nano_vla"))


@pytest.mark.parametrize("where", ["", "checkpoints/001", "checkpoints/001/pretrained_model", "checkpoints/last"])
def test_a_run_is_evaluated_in_its_own_suite_and_as_it_planned(run, tmp_path, capsys, where):
    assert evaluate_plainly(run / where, tmp_path / "e", "plugins=[troubled_suite]") == 0
    assert f"as in the run {run}: suite=of the past, evaluation.replan_every=3\n" in capsys.readouterr().out
    found = identity(tmp_path / "e")
    assert (found["suite"]["name"], found["replan_every"]) == ("of the past", 3)
    assert found["suite"]["class"] == "troubled_suite:TroubledSuite"
    assert rows(tmp_path / "e")["task"].tolist() == ["point/red", "point/green"]


def test_a_newest_checkpoint_named_by_a_text_file_is_evaluated(run, tmp_path, capsys):
    """As older versions wrote it, and this one where links cannot be made."""
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    (copy / "checkpoints" / "last").unlink()
    (copy / "checkpoints" / "last").write_text("001\n")
    for where in ("checkpoints/last", "checkpoints/last/pretrained_model"):
        assert evaluate_plainly(copy / where, tmp_path / "e", "plugins=[troubled_suite]") == 0
        assert "suite=of the past" in capsys.readouterr().out


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_newer_checkpoint_that_is_damaged_is_named_in_the_results(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.copytree(copy / "checkpoints" / "001", copy / "checkpoints" / "002")
    flip(copy / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    allowed = "plugins=[troubled_suite]"
    assert evaluate_plainly(copy, tmp_path / "e", allowed, "tasks=[red]", "evaluation.episodes=1") == 0
    (sentence,) = summary(tmp_path / "e")["passed_over"]
    assert "002/pretrained_model/model.safetensors is damaged" in sentence
    assert capsys.readouterr().out.count("passing over a checkpoint") == 2  # when it happens, and with the results
    for where in ("checkpoints/002", "checkpoints/002/pretrained_model"):
        assert evaluate_plainly(copy / where, tmp_path / "f", allowed) == 2
        assert "is damaged: it differs from its manifest" in capsys.readouterr().err
    flip(copy / "checkpoints" / "001" / "pretrained_model" / "config.json")
    assert evaluate_plainly(copy, tmp_path / "f", allowed) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("where", ["", "checkpoints/001", "checkpoints/001/pretrained_model"])
@pytest.mark.parametrize(
    ("lost", "says"),
    [("run.json", "has no run.json, which says what it learnt"), ("config.yaml", "has lost its config.yaml")],
)
def test_a_run_that_lost_what_says_its_tasks_or_suite_is_not_guessed(run, tmp_path, capsys, where, lost, says):
    """It would be rolled out on every task of the suite, or in the default one."""
    copy = shutil.copytree(run, tmp_path / "run")
    sealed = seal(json.loads((copy / "run.json").read_text()))
    (copy / "run.json").write_text(json.dumps(sealed))
    (copy / lost).unlink()
    more = ["plugins=[troubled_suite]", "suite=troubled"]
    assert evaluate_plainly(copy / where, tmp_path / "e", *more) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "e").exists()
    named = evaluate_plainly(copy / where, tmp_path / "e", *more, "tasks=[red]", "evaluation.episodes=1")
    assert named == (0 if lost == "run.json" else 2)


@pytest.mark.parametrize("content", ['{"id": 3}', '{"tasks": []}'])
def test_a_run_json_of_other_software_does_not_make_a_run(tmp_path, content):
    save_policy("nano_vla", tmp_path / "checkpoints" / "000100" / "pretrained_model")
    (tmp_path / "run.json").write_text(content)
    assert find_run(str(tmp_path / "checkpoints" / "000100" / "pretrained_model")) is None


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "\\\\${oc.env:HOME}", "a ${b", "$HOME", "???"])
def test_the_settings_of_a_run_are_text(run, tmp_path, value):
    copy = shutil.copytree(run, tmp_path / "run")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["suite"]["render_profile"] = value
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    found = compose_evaluation(str(copy), ["plugins=[troubled_suite]"], [CONF])
    assert found["suite"]["render_profile"] == value


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "3 plugins=[x]", 1.5, True, [3]])
def test_a_number_of_a_run_is_a_number(run, tmp_path, value):
    copy = shutil.copytree(run, tmp_path / "run")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["evaluation"]["replan_every"] = value
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigurationError, match="expected a whole number"):
        compose_evaluation(str(copy), ["plugins=[troubled_suite]"], [CONF])


def test_what_the_user_says_wins_over_the_run(run, tmp_path, capsys):
    allowed = "plugins=[troubled_suite,toy_world]"
    changed = ["suite.crashes=[[red,20000]]", "evaluation.replan_every=2", "evaluation.max_attempts=1"]
    assert evaluate_plainly(run, tmp_path / "changed", allowed, *changed) == 0
    assert f"as in the run {run}: suite=of the past\n" in capsys.readouterr().out
    assert identity(tmp_path / "changed")["replan_every"] == 2
    assert rows(tmp_path / "changed")["outcome"].tolist()[0] == "error"
    assert evaluate_plainly(run, tmp_path / "other", allowed, "suite=point") == 0
    assert f"as in the run {run}: evaluation.replan_every=3\n" in capsys.readouterr().out
    assert identity(tmp_path / "other")["suite"]["name"] == "point"
    both = ["suite=point", "evaluation.replan_every=2"]
    assert evaluate_plainly(run, tmp_path / "both", allowed, *both) == 0
    assert "as in the run" not in capsys.readouterr().out


def test_a_policy_outside_of_a_run_takes_nothing_over(run, tmp_path, capsys):
    copied = shutil.copytree(run / "checkpoints" / "001" / "pretrained_model", tmp_path / "policy")
    assert evaluate(tmp_path / "e", "tasks=[red]", "evaluation.episodes=1", policy=copied) == 0
    assert "as in the run" not in capsys.readouterr().out
    (tmp_path / "config.yaml").write_text("settings: of something else\n")
    assert evaluate(tmp_path / "e", "tasks=[red]", "evaluation.episodes=1", policy=copied) == 0
    (tmp_path / "config.yaml").write_text("settings: [of\n")
    assert evaluate(tmp_path / "f", "tasks=[red]", "evaluation.episodes=1", policy=copied) == 0
    (tmp_path / "run.json").write_text("{}")  # now it is a run's
    assert evaluate(tmp_path / "g", "tasks=[red]", policy=copied) == 2
    assert "config.yaml is not valid YAML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "overrides", "advice"),
    [
        ("suite", ["plugins=[toy_world]"], "add plugins=[toy_world,troubled_suite]"),
        ("suite", ["plugins=[toy_world]", "suite.seconds=0.002"], "add plugins=[toy_world,troubled_suite]"),
        ("method", ["plugins=[troubled_suite]"], f"add plugins=[troubled_suite,{__name__}]"),
    ],
)
def test_only_the_command_says_which_packages_may_be_used(part, overrides, advice, tmp_path, capsys):
    run = make_run(tmp_path / "run", new_policy("nano_vla"), method_settings=TOLD)
    assert evaluate_plainly(run, tmp_path / "e", *overrides) == 2
    message = capsys.readouterr().err
    assert f"the {part} of the run {run} is" in message
    assert advice in message
    assert message.count("\n") == 1
    assert not (tmp_path / "e").exists()


def test_a_name_on_the_hub_is_not_looked_for_around_the_working_directory(run, monkeypatch):
    from vla_cl.run.location import find_run

    monkeypatch.chdir(run)
    assert find_run("someone/policy") is None
    assert find_run("random") is None
    assert find_run("checkpoints").root == run


def test_a_misspelt_setting_of_the_suite_of_a_run_is_one_sentence(run, tmp_path, capsys):
    assert evaluate_plainly(run, tmp_path / "e", "plugins=[troubled_suite]", "suite.secods=1") == 2
    message = capsys.readouterr().err
    assert "unknown key 'suite.secods'; did you mean 'suite.seconds'" in message
    assert message.count("\n") == 1


@pytest.fixture
def served(monkeypatch):
    """The tasks of each call of the engine, and what a function said of the policy then."""
    calls, look, roll_out = [], [first_weight], Engine.run

    def rolled_out(self, policy, requests, *more):
        calls.append(({request.task.id for request in requests}, look[0](policy)[0].item()))
        return roll_out(self, policy, requests, *more)

    monkeypatch.setattr(Engine, "run", rolled_out)
    return calls, look


ALLOWED = f"plugins=[troubled_suite,{__name__}]"


def make_told_run(root):
    model = new_policy("nano_vla")
    method = Told(["point/red", "point/green"])
    method.attach(model, 3)
    return make_run(root, model, method, method_settings=TOLD)


def test_a_method_that_must_be_told_the_task_is_told_it(served, tmp_path, capsys):
    run = make_told_run(tmp_path / "run")
    assert evaluate_plainly(run, tmp_path / "e", ALLOWED, "evaluation.episodes=2") == 0
    assert served[0] == [({"point/red"}, 3.0), ({"point/green"}, 4.0)]
    assert rows(tmp_path / "e")["task"].tolist() == ["point/red", "point/red", "point/green", "point/green"]
    served[0].clear()
    copied = shutil.copytree(run / "checkpoints" / "001" / "pretrained_model", tmp_path / "policy")
    assert evaluate(tmp_path / "plain", "tasks=[red,green]", policy=copied) == 0
    assert [tasks for tasks, _ in served[0]] == [{"point/red", "point/green"}]
    capsys.readouterr()
    (run / "checkpoints" / "001" / "cl_state" / "method.json").unlink()
    assert evaluate_plainly(run / "checkpoints" / "001", tmp_path / "f", ALLOWED) == 2
    assert "001 lacks cl_state/method.json" in capsys.readouterr().err


def test_a_task_that_the_method_of_a_run_has_not_learnt_is_one_sentence(served, tmp_path, capsys):
    run = make_told_run(tmp_path / "run")
    assert evaluate_plainly(run, tmp_path / "e", ALLOWED, "tasks=[red,blue]") == 2
    assert capsys.readouterr().err == "vla-cl: method 'told' has not learnt point/blue\n"
    assert served[0] == []
    assert not (tmp_path / "e").exists()


def test_another_state_of_the_method_is_another_evaluation(tmp_path, capsys):
    first = make_told_run(tmp_path / "first")
    assert evaluate_plainly(first, tmp_path / "e", ALLOWED) == 0
    model, method = new_policy("nano_vla"), Told(["point/red", "point/green"])
    method.attach(model, 3)
    method.numbers["point/red"] += 1
    second = make_run(tmp_path / "second", model, method, method_settings=TOLD)
    capsys.readouterr()
    assert evaluate_plainly(second, tmp_path / "e", ALLOWED) == 2
    assert "holds an evaluation of another policy (" in capsys.readouterr().err
    damaged = second / "checkpoints" / "001" / "cl_state" / "method.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert evaluate_plainly(damaged.parents[1], tmp_path / "f", ALLOWED) == 2
    assert "is damaged" in capsys.readouterr().err


def test_packnet_serves_each_task_with_its_own_weights(served, tmp_path):
    model, method = new_policy("nano_vla"), PackNet()
    method.attach(model, 3)
    by_id = {task.id: task for task in PointSuite().tasks()}
    for number, task in enumerate(("point/red", "point/green")):
        experience = Experience(number, task, (by_id[task],))
        method.begin_task(experience)
        with torch.no_grad():  # what is free learns
            for name, owner in method.owners.items():
                dict(model.module.named_parameters())[name][owner == 0] = number + 0.5
        method.begin_phase("retrain")
        method.end_task(experience, None)
    name = next(iter(method.owners))
    owner = method.owners[name]
    counts = [int((owner == 1).sum()), int((owner > 0).sum())]
    assert 0 < counts[0] < counts[1] < owner.numel()
    settings = {"name": "packnet", "class": "vla_cl.methods.packnet:PackNet"}
    run = make_run(tmp_path / "run", model, method, method_settings=settings)
    served[1][0] = lambda policy: [torch.count_nonzero(dict(policy.module.named_parameters())[name])]
    assert evaluate_plainly(run, tmp_path / "e", "plugins=[troubled_suite]") == 0
    assert served[0] == [({"point/red"}, counts[0]), ({"point/green"}, counts[1])]


def test_of_a_run_its_own_tasks_are_evaluated_where_the_suite_has_them(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    policy = save_policy("nano_vla", run / "checkpoints" / "001" / "pretrained_model")
    for tasks, expected in (["point/green"], ["point/green"]), (["other/lift"], [t.id for t in PointSuite().tasks()]):
        (run / "run.json").write_text(json.dumps({"tasks": [{"id": task} for task in tasks]}))
        assert evaluate(tmp_path / tasks[0], "evaluation.episodes=1", policy=policy.parent) == 0
        assert rows(tmp_path / tasks[0])["task"].tolist() == expected

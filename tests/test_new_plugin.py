"""`vla-cl new` writes a plug-in that runs at once, and docs/plugins.md shows its files; a wrong policy is refused."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from parsed_markdown import named_files

from vla_cl.cli.main import main
from vla_cl.config.plugins import import_plugins
from vla_cl.metrics import load_matrix
from vla_cl.models.policy_config import policy_config
from vla_cl.models.tried_policy import try_policy
from vla_cl.tools import new_plugin
from vla_cl.types import ConfigurationError, InterfaceSpec

ROOT = Path(__file__).parents[1]
SPEC = InterfaceSpec({"observation.image": (32, 32)}, 2, 2)
SMALL = ["cache_dir=cache", "training.steps=2", "training.batch_size=2", "demonstrations.episodes=2",
         "demonstrations.workers=1", "evaluation.episodes=2", "evaluation.workers=1", "evaluation.videos=0",
         "device=cpu", "threads=1"]  # fmt: skip


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a project with some texts of its files replaced, and makes its package importable."""

    def write(name, *changes):
        project = new_plugin.write(name, tmp_path)
        monkeypatch.syspath_prepend(project)
        for file, old, new in changes:
            path = project / name / file.format(name)
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        return project

    return write


def test_it_learns_rolls_out_and_passes_its_own_test(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "sorting_cups", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"project": "sorting_cups"}
    monkeypatch.chdir("sorting_cups")
    monkeypatch.syspath_prepend(Path())
    words = "train --conf sorting_cups/conf plugins=sorting_cups stream=reach_3 method=anchored policy=sorting_cups"
    assert main([*words.split(), "demonstrations.hold=2", *SMALL]) == 0
    assert load_matrix(Path("outputs/reach_3-sorting_cups-anchored-seed0")).scores.shape == (3, 3)

    monkeypatch.syspath_prepend("tests")
    own = importlib.import_module("test_sorting_cups")
    names = [name for name in vars(own) if name.startswith("test_")]
    assert len(names) == 3
    for name in names:
        vars(own)[name]()


def test_no_file_keeps_the_templates_name(tmp_path):
    project = new_plugin.write("kitchen_arm", tmp_path)
    for path in project.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert not [word for word in ("my_plugin", "my-plugin", "MyPlugin") if word in f"{path.name} {text}"]
    assert len((project / "README.md").read_text().splitlines()) <= 10


def test_the_page_shows_the_files_that_are_written(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "my_plugin", raising=False)  # of another test
    shown = dict(named_files((ROOT / "docs" / "plugins.md").read_text()))
    project = new_plugin.write("my_plugin", tmp_path)
    assert {name: (project / name).read_text() for name in shown} == shown
    code = {str(path.relative_to(project)) for path in (project / "my_plugin").rglob("*.*")}
    assert code - shown.keys() == {"my_plugin/__init__.py"}


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("My-Plugin", "small letters, digits and _"),
        ("class", "small letters, digits and _"),
        ("a" * 41, "at most 40"),
        ("json", "there is a Python module 'json' already"),
        ("vla_cl", "there is a Python module 'vla_cl' already"),
    ],
)
def test_a_name_that_cannot_be_a_package_is_refused(name, match, tmp_path):
    with pytest.raises(ConfigurationError, match=match):
        new_plugin.write(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    new_plugin.write("kitchen_arm", tmp_path)
    with pytest.raises(ConfigurationError, match="kitchen_arm exists already"):
        new_plugin.write("kitchen_arm", tmp_path)


def test_what_plugins_lists_is_imported_with_its_policies(written):
    written("cups_a")
    import_plugins(["cups_a"])
    assert try_policy(policy_config("cups_a", {"hidden_size": 8}, SPEC, "cpu"), SPEC).name == "policy 'cups_a'"


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("bad_syntax", ("configuration_{}.py", "chunk_size: int = 16", "chunk_size int = 16"),
         r"plugins=bad_syntax: module bad_syntax.configuration_bad_syntax cannot be imported \(SyntaxError: .*; "
         r"configuration_bad_syntax.py, line 14\)"),
        ("bad_import", ("__init__.py", '"""A', 'import cup_physics\n"""A'),
         r"plugins=bad_import: module bad_import cannot be imported \(ModuleNotFoundError: .*cup_physics.*; "
         r"__init__.py, line 1\)"),
    ],
)  # fmt: skip
def test_a_package_that_cannot_be_imported_is_told_with_file_and_line(name, change, match, written):
    written(name, change)
    with pytest.raises(ConfigurationError, match=match):
        import_plugins([name])


MODEL, PROCESSOR = "modeling_{}.py", "processor_{}.py"
SAVING_OTHERS = """    def _save_pretrained(self, *given, **named):
        self.text.weight.data += 1
        super()._save_pretrained(*given, **named)
        self.text.weight.data -= 1

    def get_optim_params"""


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("no_class", (MODEL, "class NoClassPolicy", "class Other"), "its class and processors fails .*NoClassPolicy"),
        ("no_processor", (PROCESSOR, "def make_", "def build_"), "its class and processors fails .*Processor for"),
        ("no_key", (MODEL, 'batch["action_is_pad"]', 'batch["padding"]'), "forward fails .*KeyError: 'padding'"),
        ("no_sum", (MODEL, ".abs().mean(2)", ".abs()"), "forward fails .*RuntimeError"),
        ("no_one", (MODEL, "losses if reduction", "losses[:1] if reduction"), r"one finite value per sample, shape \(2,"
         r"\) here; got shape \(1,\)"),
        ("no_gradient", (MODEL, "(self.chunk(batch) -", "(self.chunk(batch).detach() -"), "forward has no gradient"),
        ("no_number", (MODEL, "clamp(min=1)", "clamp(min=1) / 0"), "forward must give .*finite"),
        ("no_chunk", (MODEL, "return self.chunk(batch)", "return self.chunk(batch)[:, :3]"), "predict_action_chunk "
         r"must give finite actions of shape \(2, 16, 2\).*got shape \(2, 3, 2\)"),
        ("no_weights", (MODEL, "    def get_optim_params", SAVING_OTHERS), "text.weight is not the same after saving"),
    ],
)  # fmt: skip
def test_a_wrong_policy_is_refused_with_its_method(name, change, match, written):
    written(name, change)
    import_plugins([name])
    with pytest.raises(ConfigurationError, match=match):
        try_policy(policy_config(name, {}, SPEC, "cpu"), SPEC)


def test_a_wrong_policy_is_refused_before_anything_is_recorded(written, monkeypatch, capsys):
    project = written("bad_cups", (MODEL, "losses if reduction", "losses[:1] if reduction"))
    monkeypatch.chdir(project)
    words = "train --conf bad_cups/conf plugins=bad_cups stream=reach_3 policy=bad_cups"
    assert main([*words.split(), *SMALL]) == 2
    assert "policy 'bad_cups' cannot be learnt as it is: forward must give" in capsys.readouterr().err
    assert not (project / "cache").exists()
    assert not (project / "outputs").exists()

"""Settings as people type them: any path, lists without brackets, options anywhere, and what is meant instead."""

import contextlib
from pathlib import Path

import pytest

from vla_cl.cli.main import main
from vla_cl.config.compose import compose
from vla_cl.settings.overrides import quoted
from vla_cl.types import ConfigurationError

PATHS = [
    "/a/b", "/a=b", "/a b/c", "/a(b)", "/a)b", "/a,b", "/ä/ö ü", "/机器/人", "/a$b", "/a'b", '/a"b', "/a{b}", "/a[0]",
    "/a:b", "/a#b", "/a;b", "/a&b", "/a|b", "/a*b?", "/a!b", "/a^b", "/a`b", "/a\\b", "/a\\", "/a%20b", "/a@b", "2024",
    "1e3", "true", "relative/path", "./here", "../up", "-dash", "+plus", "/a  b", "/null", "/a\\'b", "'", "inf",
    "~x/y=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VLA_CL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith("~")])
@pytest.mark.parametrize("key", ["output_dir", "cache_dir", "warm_start"])
def test_a_path_is_read_as_it_is(key, path):
    assert compose([f"{key}={path}"])[key] == path


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith("~")])
def test_a_dataset_is_read_as_it_is_with_and_without_brackets(path):
    assert compose(["stream=datasets", f"stream.datasets={path}"])["stream"]["datasets"] == [path]
    if not set(path) & set(",[]{}'\"()"):
        assert compose(["stream=datasets", f"stream.datasets=[{path},/z]"])["stream"]["datasets"] == [path, "/z"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/a/\\${x}", ["/a/${x}"]),
        ("['/a/\\${x}']", ["/a/${x}"]),
        ("/a ", ["/a"]),
        ('["/a,b ",/c]', ["/a,b ", "/c"]),
        ("['[a]','/b(c']", ["[a]", "/b(c"]),
        ("""["'a'"]""", ["'a'"]),
        ("[a]", ["a"]),
        ("'a'", ["a"]),
    ],
)
def test_what_a_dataset_is_called_with_quotes_and_without(typed, meant):
    assert compose(["stream=datasets", f"stream.datasets={typed}"])["stream"]["datasets"] == meant


@pytest.mark.parametrize("text", [*PATHS, "", "a\\\\'", "''", '""'])
def test_quoting_is_undone_by_the_reader(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"a={quoted(text)}").value() == text


@pytest.mark.parametrize("key", ["output_dir", "cache_dir", "warm_start"])
def test_home_is_expanded(key, home):
    assert compose([f"{key}=~/results"])[key] == f"{home}/results"
    assert compose([f"{key}='~/results'"])[key] == f"{home}/results"


def test_home_is_expanded_in_lists_suites_and_variables(home, monkeypatch):
    assert compose(["stream=datasets", "stream.datasets=[~/a,/b]"])["stream"]["datasets"] == [f"{home}/a", "/b"]
    assert compose(["suite=libero_10", "suite.assets=~/assets"])["suite"]["assets"] == f"{home}/assets"
    assert compose([])["cache_dir"] == f"{home}/.cache/vla-cl"
    monkeypatch.setenv("VLA_CL_CACHE", "~/x")
    assert compose([])["cache_dir"] == f"{home}/x"
    monkeypatch.setenv("VLA_CL_CACHE", "")
    with pytest.raises(ConfigurationError, match=r"cache_dir must be a path.*variable"):
        compose([])


def test_a_home_that_nobody_has():
    with pytest.raises(ConfigurationError, match="cannot be expanded"):
        compose(["output_dir=~nobody-of-this-name/x"])


def test_yaml_files_of_ones_own_may_lie_anywhere(tmp_path):
    folder = tmp_path / "a b,c=(d) ü"
    (folder / "stream").mkdir(parents=True)
    (folder / "stream" / "own.yaml").write_text("name: own\ntasks: [reach]\n")
    assert compose(["stream=own"], folders=[folder])["stream"]["tasks"] == ["reach"]


@pytest.mark.parametrize("file", ["file", "file/below", "link", "link/below"])
@pytest.mark.parametrize("key", ["output_dir", "cache_dir"])
def test_a_file_in_the_way_of_a_folder(key, file, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=rf"{key}=.* cannot be a folder: .*(file|link)"):
        compose([f"{key}={tmp_path / file}"])


def test_a_name_too_long_for_the_disk():
    with pytest.raises(ConfigurationError, match="cannot be a folder"):
        compose([f"output_dir=/tmp/{'x' * 300}"])


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("plugins=toy_world", ["plugins"], ["toy_world"]),
        ("plugins=json,yaml", ["plugins"], ["json", "yaml"]),
        ("plugins=[json,yaml]", ["plugins"], ["json", "yaml"]),
        ("stream.tasks=reach", ["stream", "tasks"], ["reach"]),
        ("stream.tasks=reach,push", ["stream", "tasks"], ["reach", "push"]),
        ("tracking.trackers=wandb", ["tracking", "trackers"], ["wandb"]),
        ("cameras={top: 相机}", ["cameras"], {"top": "相机"}),
        ("training.steps=1e3", ["training", "steps"], 1000),
        ("training.steps=2.0", ["training", "steps"], 2),
        ("device=cuda:1", ["device"], "cuda:1"),
        ("name=2024", ["name"], "2024"),
        ("tracking.project=My project (a, b)", ["tracking", "project"], "My project (a, b)"),
    ],
)
def test_what_is_meant_is_understood(override, path, value):
    found = compose([override])
    for key in path:
        found = found[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("[{name: x, tasks: [放下, lift (it)]}]", [{"name": "x", "tasks": ["放下", "lift (it)"]}]),
        ("[{name: it's, tasks: ['a, b', a: b]}]", [{"name": "it's", "tasks": ["a, b", "a: b"]}]),
        ("[{name: x, tasks: [reach]}, {name: y, tasks: [push]}]",
         [{"name": "x", "tasks": ["reach"]}, {"name": "y", "tasks": ["push"]}]),
    ],
)  # fmt: skip
def test_groups_of_tasks_need_no_quotes(typed, meant):
    assert compose(["stream=datasets", f"stream.experiences={typed}"])["stream"]["experiences"] == meant


SAID = [
    (["train", "--method", "er"], "method=er"),
    (["train", "--method=er"], "method=er"),
    (["train", "--train-seed", "3"], "train_seed=3"),
    (["train", "-m", "train_seed=1"], "train_seed=0,1,2 learns one seed after another"),
    (["collect", "train_seed=0,1,2"], "for value in 0 1 2; do"),
    (["train", "training.steps=range(1,3)"], "names several values"),
    (["train", "device=gpu"], "device must be auto, cpu, cuda or cuda:N; got 'gpu'"),
    (["train", "method=replay"], "did you mean 'er' or"),
    (["train", "method=my_method"], "--conf"),
    (["train", "method=ewcc"], "did you mean 'ewc'"),
    (["train", "training.lr=1"], "did you mean 'training.learning_rate'"),
    (["train", "lr=1"], "did you mean 'training.learning_rate'"),
    (["train", "seed=1"], "did you mean 'train_seed'"),
    (["train", "suite=null"], "a run needs a suite"),
    (["train", "~suite"], "'suite' cannot be left out"),
    (["train", "policy=null"], "a run needs a policy"),
    (["train", "method.memory=25MB"], "method.memory"),
    (["train", "method=er", "method.memory=25MB"], "{budget: 25 MB}"),
    (["train", "stream=datasets", "stream.experiences=[{name: x, tasks: [a}]"], "must be null or a list like [a,b]"),
    (["train", "stream.experiences=[{name: x, tasks [a]}]"], "close every bracket, and quote each text inside"),
    (["train", "method=retain", 'method.shares={"head.*": 0.8, "vision": 0}'],
     "keys inside braces are not quoted; like this: 'method.shares={head.*: 0.8, vision: 0}'"),
    (["train", "a=b=c"], """'a="b=c"'"""),
    (["train", "training.steps=(3"], """'training.steps="(3"'"""),
    (["train", "tracking.trackers=[wandbb]"], "unknown tracker 'wandbb'"),
    (["train", "threads=100000"], "threads must be a whole number from 0 to 1024"),
    (["train", "train_seed=-1"], "train_seed must be a whole number from 0"),
    (["train", "cache_dir=null"], "cache_dir must be a path; got null"),
    (["train", "foo"], "expected key=value"),
    (["train", "policy=nano_vla", "policy.type=act"], "leave one of them out"),
    (["train", "stream.tasks=[]"], "needs either"),
    (["resume", "outputs/run"], "outputs/run is no run (it has no config.yaml)"),
    (["train", "--resume"], "has no option --resume; vla-cl resume RUN continues a run"),
    (["train", "--trainseed", "3"], "no setting trainseed; did you mean 'train_seed'"),
    (["check", "cameras=[front"], "a bracket is not closed; like this: 'cameras=[front]'"),
    (["train", "method.memory={budget: [1"], "'method.memory={budget: [1]}'"),
    (["evaluate"], "required: policy;"),
    (["bench"], "required: what;"),
    (["bench", "startu"], "did you mean 'startup'?"),
    (["compare", "a", "--style", "markdwn"], "--style 'markdwn' is not known; did you mean 'markdown'?"),
    (["report", "/dev/zero"], "got /dev/zero, a file; give the folder that a run wrote"),
    (["trian"], "or 'train'"),
    (["method=er"], "vla-cl train method=er"),
    ([], "a command is missing"),
    (["report"], "RUN"),
    (["compare", "--metrcs", "a"], "did you mean '--metrics'"),
    (["train", "--conf", "/no/such/folder"], "is not a folder"),
    (["train", "--conf"], "expected one argument"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"), SAID, ids=lambda item: " ".join(item) if isinstance(item, list) else ""
)
def test_what_cannot_be_done_is_said_with_what_can(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert len(said) <= 300 + len("vla-cl: \n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "words"), [(["help"], "COMMAND"), (["help", "train"], "vla-cl train")])
def test_help_shows_the_help(arguments, words, capsys):
    with contextlib.suppress(SystemExit):
        main(arguments)
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: ") and words in shown.out
    assert shown.err == ""


def test_a_file_of_a_run_is_answered_with_the_run(tmp_path, capsys):
    (tmp_path / "run" / "videos").mkdir(parents=True)
    (tmp_path / "run" / "run.json").touch()
    (tmp_path / "run" / "videos" / "film.mp4").touch()
    for name in ("run.json", "videos/film.mp4"):
        assert main(["report", str(tmp_path / "run" / name)]) == 2
        assert f"give the run that it lies in, {tmp_path / 'run'}\n" in capsys.readouterr().err


def test_options_may_stand_anywhere(capsys):
    conf = str(Path(__file__).parents[1] / "conf")
    for arguments in (
        ["suite=pointt", "--conf", conf, "stream=points"],
        ["--conf", conf, "stream=points", "suite=pointt"],
        ["suite=pointt", "stream=points", f"--conf={conf}"],
    ):
        assert main(["train", *arguments]) == 2
        assert "did you mean 'point'" in capsys.readouterr().err


def test_the_last_of_several_choices_counts():
    assert compose(["method=er", "method=ewc"])["method"]["name"] == "ewc"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("=5", "expected key=value"),
        (" =5", "expected key=value"),
        ("+foo=1", "there is no setting 'foo'"),
        ("++new.key=3", "there is no setting 'new'"),
        ("hydra.run.dir=x", "Hydra's own command line"),
        ("hydra/launcher=basic", "Hydra's own command line"),
        (
            "plugins=[nope_nope]",
            "no package of this name is installed; install yours with `pip install -e FOLDER`, or put",
        ),
        ("plugins=[os.path]", "not of a module in it"),
        ("output_dir=a\udcff", "no UTF-8"),
    ],
)
def test_what_would_have_no_effect_or_break_later_is_refused(typed, says):
    with pytest.raises(ConfigurationError, match=says) as found:
        compose([typed])
    assert len(str(found.value)) <= 300


def test_settings_of_a_part_may_be_added():
    assert compose(["suite=pusht", "+suite.rebuild=true"])["suite"]["rebuild"] is True

"""The command line. Parsing and ``--help`` import nothing heavy; each command imports what it needs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla_cl.cli.answers import Answer, messages_only, write_json
from vla_cl.cli.command_line import (
    Parser,
    add_conf,
    add_overrides,
    new_parser,
    parse,
    user_location,
    user_path,
    user_paths,
)
from vla_cl.cli.last_line import guarded
from vla_cl.types import ConfigurationError

_HINTS = {
    "train": "the same command continues",
    "resume": "the same command continues",
    "demo": "the same command continues",
    "evaluate": "finished episodes are kept, and the same command rolls out the rest",
    "collect": "finished episodes are kept, and the same command records the rest",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status, as ``vla-cl --help`` tells it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parser()
    name = next((item for item in given if not item.startswith("-")), "")

    as_json = "--json" in given

    def command() -> int:
        options = parse(given, parser, commands)
        chosen: Callable[[argparse.Namespace], Answer] = options.command
        if as_json:
            with messages_only():
                answer = chosen(options)
            write_json(answer.content)
        elif (answer := chosen(options)).text:
            print(answer.text)
        return answer.status

    return guarded(command, "--debug" in given, _HINTS.get(name, "give the same command again"), as_json)


def _parser() -> tuple[Parser, dict[str, Parser]]:
    parser, add, commands = new_parser()
    train = add("train", _train, "learn a stream of tasks", "vla-cl train stream=cw10 method=er training.steps=2000")
    train.add_argument("--dry-run", action="store_true", help="check everything, estimate the costs, start nothing")
    add_overrides(train)
    resume = add("resume", _resume, "continue a run with its own settings", "vla-cl resume outputs/cw10-er-seed0")
    resume.add_argument("run", type=user_path, metavar="RUN", help="its folder")
    add_overrides(resume)
    add_overrides(
        add("collect", _collect, "record demonstrations of a stream's tasks", "vla-cl collect stream=metaworld_6")
    )
    evaluate = add(
        "evaluate", _evaluate, "roll a policy out on tasks", "vla-cl evaluate outputs/run tasks=[reach,push]"
    )
    evaluate.add_argument(
        "policy",
        type=user_location,
        help="a run's folder, a checkpoint, a LeRobot policy (folder, hub name), or random",
    )
    add_overrides(evaluate, "evaluate")
    _add_results(add)
    _add_tools(add)
    return parser, commands


def _add_results(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands about runs that have learnt something."""
    trial = add(
        "trial", _trial, "score a robot's trials by hand, blind and shuffled", "vla-cl trial outputs/arm --count 5"
    )
    trial.add_argument("run", type=user_path, metavar="RUN", help="its folder")
    trial.add_argument("--count", type=_count, metavar="N", help="trials of each task and checkpoint (default: 10)")
    trial.add_argument("--tasks", metavar="A,B", help="which tasks (default: all)")
    trial.add_argument(
        "--checkpoints",
        type=_counts,
        metavar="1,3",
        help="which checkpoints (default: of each task the one behind it, and the last)",
    )
    trial.add_argument("--finish", action="store_true", help="ask nothing more, score what has been answered")
    report = add(
        "report", _report, "write an HTML report of one or more runs", "vla-cl report outputs/run-a outputs/run-b"
    )
    report.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="folders of runs")
    report.add_argument("--output", type=user_path, help="the file to write (default: beside the runs)")
    report.add_argument(
        "--figures", type=user_path, metavar="FOLDER", help="also write each figure as SVG, the tables as CSV and LaTeX"
    )
    _add_measure(report)
    compare = add(
        "compare",
        _compare,
        "a table of methods over training seeds",
        "vla-cl compare outputs/er-0 outputs/er-1 outputs/ewc-0 outputs/ewc-1",
    )
    compare.add_argument(
        "runs", nargs="+", type=user_path, metavar="RUN", help="folders of finished runs, any number of seeds"
    )
    compare.add_argument("--metrics", metavar="A,B", help="names of metrics, the first one sorts (see vla-cl metrics)")
    _add_measure(compare)
    compare.add_argument("--style", choices=("text", "markdown", "json"), default="text", help="how to write the table")
    metrics = add(
        "metrics", _metrics, "print every metric of a success matrix", "vla-cl metrics outputs/run/matrix.json"
    )
    metrics.add_argument("file", type=user_path, help="a matrix.json, or the folder of a run")
    _add_measure(metrics)
    metrics.add_argument("--reference", type=user_path, help="single-task runs' matrix.json, for forward transfer")
    memory = add("memory", _memory, "list what a run remembers", "vla-cl memory outputs/run --export outputs/memory")
    memory.add_argument("run", type=user_path, help="the folder of a run")
    memory.add_argument("--export", type=user_path, metavar="FOLDER", help="also write it as a LeRobotDataset v3")
    memory.add_argument("--plugins", metavar="A,B", default="", help="packages that the run's suite may come from")
    memory.add_argument("--datasets", type=user_paths, metavar="A,B", help="where the run's datasets lie now, in order")


def _add_measure(command: argparse.ArgumentParser) -> None:
    command.add_argument("--measure", metavar="NAME", help="of runs with several measures: which (default: the first)")


def _add_tools(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands about the program itself: is the machine fit, what is there, what does it cost, show it."""
    add_overrides(
        add("check", _check, "look into all that a training needs, write nothing", "vla-cl check stream=datasets ...")
    )
    add("doctor", _doctor, "check this machine: renderer, codec, disk, versions", "vla-cl doctor")
    bench = add("bench", _bench, "measure against the bounds in the README", "vla-cl bench rollout rows=[metaworld]")
    bench.add_argument(
        "what",
        choices=("startup", "training", "learning", "rollout", "methods", "preflight", "coverage"),
        help="what to measure",
    )
    add_overrides(bench, "bench")
    gallery = add(
        "gallery", _gallery, "pictures of every task of a suite", "vla-cl gallery metaworld --output outputs/gallery"
    )
    gallery.add_argument("suite", help="a yaml of conf/suite")
    gallery.add_argument("--output", type=user_path, default=Path("outputs/gallery"), help="folder of the picture")
    gallery.add_argument("--cameras", action="store_true", help="every camera as a policy sees it")
    gallery.add_argument("--profiles", metavar="TASK", help="instead: this task in every render profile")
    add_overrides(gallery, "evaluate")
    new = add("new", _new, "write a plug-in with a method, a suite, a stream and a policy", "vla-cl new my_plugin")
    new.add_argument("name", metavar="NAME", help="of the project, its package and its policy")
    new.add_argument("--folder", type=user_path, default=Path(), help="what it goes into (default: this folder)")
    listed = add("list", _list, "what can be chosen: streams, suites, policies, methods, ...", "vla-cl list streams")
    listed.add_argument(
        "what", choices=("streams", "suites", "policies", "methods", "families", "experiments"), help="what to list"
    )
    add_conf(listed)
    methods = add("methods", _methods, "list the methods, tell all about one, or write the page", "vla-cl methods er")
    methods.add_argument("method", nargs="?", metavar="NAME", help="a method, to read all about it")
    add_conf(methods)
    methods.add_argument("--plugins", metavar="A,B", default="", help="packages that methods of your own come from")
    methods.add_argument("--write", type=user_path, metavar="FILE", help="write the whole page there, as Markdown")
    methods.add_argument(
        "--measured", type=user_path, metavar="FILE", help="what vla-cl bench methods stored, for the page"
    )
    demo = add("demo", _demo, "the first continual run, with and without replay, and its report", "vla-cl demo")
    add_overrides(demo)


def _train(options: argparse.Namespace) -> Answer:
    from vla_cl.settings.overrides import split

    resumed = [value for _, key, value in map(split, options.overrides) if key == "resume"]
    if resumed and options.dry_run:
        raise ConfigurationError("--dry-run tells what a new run would cost; leave it out to continue one")
    if resumed:
        options.run = user_path(resumed[-1].strip("\"'"))
        options.overrides = [item for item in options.overrides if split(item)[1] != "resume"]
        return _resume(options)
    from vla_cl.config.compose import compose
    from vla_cl.settings.seeds import in_own_folder, of_each_seed

    each = of_each_seed(options.overrides)
    settings = [compose(overrides, folders=options.conf) for overrides in each]
    if len(each) > 1:
        settings = [in_own_folder(one) for one in settings]
    if options.dry_run:
        from vla_cl.run.dry_run import dry_run

        costs = [dry_run(one) for one in settings]
        return Answer({"runs": [cost.content for cost in costs]}, "\n\n".join(cost.text for cost in costs))
    return _trained(settings)


def _resume(options: argparse.Namespace) -> Answer:
    from vla_cl.run.resume import settings_of_run

    return _trained([settings_of_run(options.run, options.overrides)])


def _trained(settings: Sequence[dict[str, Any]]) -> Answer:
    """One run after another."""
    from vla_cl.run import root as run

    outcomes = []
    for one in settings:
        folder = run.train(one)
        from vla_cl.cli.outcome import Outcome

        outcome = Outcome.of(folder)
        print(outcome.text, flush=True)
        outcomes.append(outcome.content)
    runs = [str(outcome["run"]) for outcome in outcomes]
    together = f"compare them: vla-cl compare {' '.join(runs)}" if len(runs) > 1 else ""
    return Answer({"runs": outcomes}, together)


def _check(options: argparse.Namespace) -> Answer:
    from vla_cl.config.compose import compose

    settings = compose(options.overrides, folders=options.conf)
    from vla_cl.run.check_answer import check_command
    from vla_cl.run.family_check import check_family_command, is_robot

    return Answer((check_command if is_robot(settings) else check_family_command)(settings))


def _collect(options: argparse.Namespace) -> Answer:
    from vla_cl.config.compose import compose

    settings = compose(options.overrides, folders=options.conf)
    from vla_cl.run import root as run

    folders = [str(folder) for folder in run.collect_command(settings)]
    return Answer({"datasets": folders}, "\n".join(folders))


def _evaluate(options: argparse.Namespace) -> Answer:
    from vla_cl.run.location import compose_evaluation

    settings = compose_evaluation(options.policy, options.overrides, options.conf)
    from vla_cl.rollout.summary import read_summary
    from vla_cl.run.evaluate import evaluate

    folder = evaluate(options.policy, settings)
    return Answer({"folder": str(folder), "summary": read_summary(folder / "summary.json")}, str(folder))


def _trial(options: argparse.Namespace) -> Answer:
    from vla_cl.cli.trial import trial

    chosen = {
        "count": options.count,
        "tasks": options.tasks.split(",") if options.tasks else None,
        "checkpoints": options.checkpoints,
    }
    return trial(options.run, chosen, options.finish)


def _count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.strip().isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 100000, got {text[:40]!r}")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _say(sentences: Sequence[str]) -> None:
    """Beside the output, which may be read by a program."""
    for sentence in sentences:
        print(sentence, file=sys.stderr)


def _report(options: argparse.Namespace) -> Answer:
    from vla_cl.report import write_report
    from vla_cl.report.choice import runs_among

    runs, skipped = runs_among(options.runs)
    _say(skipped)
    written = write_report(runs, options.output, measure=options.measure, figures=options.figures)
    figures = None if options.figures is None else str(options.figures)
    return Answer({"report": str(written), "figures": figures}, "\n".join(filter(None, (str(written), figures))))


def _compare(options: argparse.Namespace) -> Answer:
    from vla_cl.report.choice import runs_among
    from vla_cl.report.seed_groups import SHOWN, compare

    runs, skipped = runs_among(options.runs, finished=True)
    _say(skipped)
    metrics = options.metrics.split(",") if options.metrics else SHOWN
    if options.json:
        return Answer(json.loads(compare(runs, metrics, "json", options.measure)))
    return Answer(None, compare(runs, metrics, options.style, options.measure))


def _metrics(options: argparse.Namespace) -> Answer:
    from vla_cl.metrics.text import describe

    found = describe(options.file, options.json, options.reference, options.measure)
    return Answer(json.loads(found)) if options.json else Answer(None, found)


def _memory(options: argparse.Namespace) -> Answer:
    from vla_cl.cli import memory as memory_command

    if options.datasets and options.export is None:
        raise ConfigurationError("--datasets is for --export, which reads the data; a list needs none: leave it out")
    found = memory_command.describe(options.run, options.json)
    if options.json:
        content = json.loads(found)
    else:
        content = None
        print(found)
    if options.export is None:
        return Answer(content)
    plugins = [name for name in options.plugins.split(",") if name]
    written = memory_command.export(options.run, options.export, plugins, options.datasets or ())
    return Answer({**(content or {}), "exported": str(options.export)}, written)


def _doctor(options: argparse.Namespace) -> Answer:
    from vla_cl.tools import doctor

    checks = doctor.report(shown=not options.json)
    return Answer([asdict(check) for check in checks], status=doctor.status(checks))


def _bench(options: argparse.Namespace) -> Answer:
    from vla_cl import bench

    stored, reached = bench.main(options.what, options.overrides, options.conf)
    return Answer({"stored": str(stored), "holds": reached}, status=0 if reached else 1)


def _gallery(options: argparse.Namespace) -> Answer:
    from vla_cl.tools import gallery

    more = options.overrides, options.conf
    written = gallery.write(options.suite, options.output, options.cameras, options.profiles, *more)
    return Answer({"picture": str(written)}, str(written))


def _list(options: argparse.Namespace) -> Answer:
    from vla_cl.cli.listing import listed, listing

    if options.json:
        return Answer(listed(options.what, options.conf))
    return Answer(None, listing(options.what, options.conf))


def _new(options: argparse.Namespace) -> Answer:
    from vla_cl.tools import new_plugin

    project = new_plugin.write(options.name, options.folder)
    return Answer({"project": str(project)}, new_plugin.next_steps(project))


def _methods(options: argparse.Namespace) -> Answer:
    from vla_cl.tools import catalogue

    if options.write is not None:
        options.write.write_text(catalogue.text(options.measured), encoding="utf-8")
        return Answer({"page": str(options.write)}, str(options.write))
    plugins = [name for name in options.plugins.split(",") if name]
    found = catalogue.entries(options.conf, plugins, options.method)
    text = catalogue.table(found) if options.method is None else catalogue.about(found[0])
    return Answer([catalogue.plain(entry) for entry in found], text)


def _demo(options: argparse.Namespace) -> Answer:
    from vla_cl.tools import demo

    written = demo.main(options.overrides, options.conf)
    return Answer({"report": str(written)}, str(written))

"""The report's first lines: what happened, in plain words. Each sentence is made of claims that tests check.

Kinds of claims of one group: ``learnt``, ``end``, ``lost`` (the levels, and the mean forgetting, which no maximum
biases), ``forgot`` or ``no_drop`` (single tasks, by a test with a correction), ``visible`` (which drops the test
could have shown), ``untested``, ``never`` (reached half). Of references ``reference``, of runs that go on
``unfinished``. Over all groups ``setting``, ``few_seeds``, and of pairs of methods ``apart``, ``alike``,
``equal_seeds``, ``pairs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla_cl.metrics import HEADLINE_FORGETTING, Estimate
from vla_cl.report.between import Pair
from vla_cl.report.claims import Claim, Fact, Shown, claim, listing
from vla_cl.report.findings import TaskCourse, courses_of, name_of_test
from vla_cl.report.groups import ENOUGH, RunGroup
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import cell_score, last_row, task_name
from vla_cl.report.scale import Scale
from vla_cl.trust.text import counted

LEARNT = 0.5
"""A task that never reached this share of its trials is named."""

MAX_PAIRS = 3
"""Of more pairs of methods the first lines give only the numbers."""


@dataclass(frozen=True)
class Lead:
    """The first lines: sentences about all, and an entry for each group."""

    opening: tuple[Claim, ...]
    entries: tuple[tuple[Claim, ...], ...]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All of them."""
        return self.opening + tuple(found for entry in self.entries for found in entry)

    @property
    def sentences(self) -> Markup:
        """The opening as a paragraph."""
        return Markup(" ").join(found.text for found in self.opening)

    @property
    def items(self) -> list[Markup]:
        """Each group in one line."""
        return [Markup("; ").join(found.text for found in entry) + "." for entry in self.entries if entry]


def lead(groups: Sequence[RunGroup], pairs: Sequence[Pair], scale: Scale) -> Lead:
    """The claims about the groups of a report."""
    chains = [group for group in groups if group.arrangement == "sequential"]
    references = [group for group in groups if group.arrangement != "sequential"]
    opening = [_setting(chains[0] if chains else groups[0])]
    opening += [*_few_seeds(chains), *_methods(pairs, scale)]
    entries = [_entry(group, scale) for group in chains]
    entries += [_reference(group, scale) for group in references]
    entries += [[_unfinished(run, scale)] for group in groups for run in group.runs if not run.finished]
    return Lead(tuple(opening), tuple(tuple(entry) for entry in entries if entry))


def run_text(run: RunRecord, key: str) -> str:
    """A text of ``run.json``, or ``unknown``."""
    return str(run.info.get(key) or f"unknown {key}")


def _setting(group: RunGroup) -> Claim:
    """``On cw20: 10 tasks learnt one after another in 20 experiences, some more than once.``."""
    run = group.first
    brought = [tasks for _, tasks in run.experiences]
    words = "On {stream}: {tasks}"
    if group.arrangement == "sequential":
        again = sum(map(len, brought)) > len(run.tasks)
        several = any(len(tasks) != 1 for tasks in brought)
        words += " learnt one after another" if len(brought) > 1 or not several else " learnt"
        words += " in {experiences}" if again or several else ""
        words += ", some more than once" if again else ""
    return claim(
        "setting", group.label, words + ".", stream=run_text(run, "stream"),
        tasks=_count(len(run.tasks), "task"), experiences=_count(len(brought), "experience"),
    )  # fmt: skip


def _few_seeds(chains: Sequence[RunGroup]) -> list[Claim]:
    """What too few seeds leave open."""
    few = [group for group in chains if len(group.runs) < ENOUGH]
    if not few:
        return []
    what = "which method is better" if len(chains) > 1 else "how another seed would end"
    words = f"Fewer than {{enough}} training seeds of {{labels}}: {what} cannot be told from so few. Use three or more."
    return [claim("few_seeds", "\n".join(group.label for group in few), words, enough=ENOUGH,
                  labels=tuple(group.label for group in few))]  # fmt: skip


def _methods(pairs: Sequence[Pair], scale: Scale) -> list[Claim]:
    """Which methods differ over their seeds."""
    test = "Welch's t-test over seeds, Holm's correction for {pairs}, "
    number = _count(sum(not math.isnan(pair.p) for pair in pairs), "pair")
    if len(pairs) > MAX_PAIRS:
        apart = sum(pair.told_apart for pair in pairs)
        words = (
            "Of {all} pairs of methods, {apart} differ at the end by more than their seeds explain ("
            + test.removesuffix(", ")
            + ")."
        )
        return [claim("pairs", "", words, all=len(pairs), apart=apart, pairs=number)]
    found = []
    for pair in pairs:
        facts: dict[str, Fact] = {
            "better": pair.better, "worse": pair.worse, "pairs": number, "p": Shown(pair.p, _p(pair.p)),
            "by": scale.drop(pair.difference),
        }  # fmt: skip
        if math.isnan(pair.p):
            kind, words = (
                "equal_seeds",
                ("{better} ends {by} better than {worse}, all seeds of each alike: a test over seeds says nothing."),
            )
        elif pair.told_apart:
            kind, words = "apart", f"{{better}} ends {{by}} better than {{worse}}, beyond chance ({test}{{p}})."
        else:
            kind, words = "alike", f"{{better}} and {{worse}} cannot be told apart ({test}{{p}})."
        found.append(claim(kind, f"{pair.better}\n{pair.worse}", words, **facts))
        test = test if kind == "equal_seeds" else ""  # named once
    return found


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return "p\u00a0<\u00a00.001" if value < 0.001 else f"p\u00a0=\u00a0{value:.3f}"


def _entry(group: RunGroup, scale: Scale) -> list[Claim]:
    """What a group learnt, how it ends, and what it lost on the way, in this order."""
    courses = courses_of(group.runs, scale.measure)
    found = [*_learnt(group, scale), *_end(group, scale), *_lost(group, scale)]
    found += [*_forgot(group, courses, scale), *_visible(group, courses, scale), *_never(group, courses, scale)]
    if found:
        seeds = _seeds(group)
        named = claim(found[0].kind, group.label, "<strong>{label}</strong>{seeds}: {rest}", label=group.label,
                      seeds=seeds, rest=found[0].text)  # fmt: skip
        found[0] = Claim(named.kind, named.of, {**found[0].facts, "label": group.label, "seeds": seeds}, named.text)
    return found


def _seeds(group: RunGroup) -> str:
    return f" ({counted(len(group.runs), 'seed')})" if len(group.runs) > 1 else ""


def _learnt(group: RunGroup, scale: Scale) -> list[Claim]:
    """How much there was to forget."""
    estimate = group.estimates.get("learning_accuracy")
    if estimate is None or math.isnan(estimate.value):
        return []
    words = "{value} {word} just after learning each task"
    return [claim("learnt", group.label, words, value=scale.shown(estimate.value), word=scale.word)]


def _end(group: RunGroup, scale: Scale) -> list[Claim]:
    estimate = group.estimates.get("final_average")
    if estimate is None or math.isnan(estimate.value):
        return []
    when = "at the end" if group.finished else "so far"
    words = f"<strong>{{value}}</strong> average {{word}} on all tasks {when}"
    around, facts = _around(group, "final_average", estimate, scale)
    return [claim("end", group.label, words + around, value=scale.shown(estimate.value), word=scale.word, **facts)]


def _around(group: RunGroup, metric: str, estimate: Estimate, scale: Scale) -> tuple[str, dict[str, Fact]]:
    """What stands in brackets: the range of several seeds, or the interval of one; words and facts."""
    values = group.values(metric) if len(group.runs) > 1 else [estimate.low, estimate.high]
    if any(map(math.isnan, values)):
        return "", {}
    least, most = scale.shown(min(values)), scale.shown(max(values))
    return f' (<span class="whole">{_ends(group, least, most)}</span>)', {"least": least, "most": most}


def _lost(group: RunGroup, scale: Scale) -> list[Claim]:
    """Forgetting on average, from just after learning to the end: nothing in it is a maximum."""
    estimate = group.estimates.get(HEADLINE_FORGETTING)
    if estimate is None or math.isnan(estimate.value):
        return []
    change = scale.drop(abs(estimate.value))
    gained = estimate.value < 0 and change.text != scale.drop(0.0).text
    values = group.values(HEADLINE_FORGETTING) if len(group.runs) > 1 else [estimate.low, estimate.high]
    ends = sorted(-value if gained else value for value in values)
    least, most = scale.change(ends[0]), scale.change(ends[-1])
    words = f"an old task {scale.verb(gained)} {{value}} on average"
    if not any(map(math.isnan, ends)):
        words += f' (<span class="whole">{_ends(group, least, most)}</span>)'
    return [claim("lost", group.label, words, value=change, gained=str(gained), least=least, most=most)]


def _ends(group: RunGroup, least: Shown, most: Shown) -> str:
    """What two ends are, as words with their names in braces."""
    if len(group.runs) == 1:
        return "95 % interval {least} to {most}"
    return "the same for every seed" if least.text == most.text else "single seeds {least} to {most}"


def _forgot(group: RunGroup, courses: Sequence[TaskCourse], scale: Scale) -> list[Claim]:
    """The tasks whose drop a test calls more than chance; or that there is none, or no test."""
    old, tested = [c for c in courses if c.old], [c for c in courses if c.tested]
    if not old:
        return []
    if not tested:
        words = "what it forgot cannot be told from chance, as the spread within its cells is not known"
        return [claim("untested", group.label, words)]
    how = f"({name_of_test(scale.measure)}, Holm's correction for {{tests}})"
    tests = _count(len(tested), "test")
    tasks = list(dict.fromkeys(c.task for c in tested if c.forgot(scale.measure)))
    if not tasks:
        return [claim("no_drop", group.label, f"no {scale.fall} of a single task is beyond chance {how}", tests=tests)]
    items, after, final, seeds = [], [], [], []
    for task in tasks:
        own = [c for c in courses if c.task == task]
        after.append(scale.shown(sum(c.after.score for c in own) / len(own)))
        final.append(scale.shown(sum(c.final.score for c in own) / len(own)))
        seeds.append(sum(c.forgot(scale.measure) for c in own))
        told = f", in {seeds[-1]} of {counted(len(own), 'seed')}" if len(group.runs) > 1 else ""
        items.append(Markup("{} ({} → {}{})").format(task_name(task), after[-1].text, final[-1].text, told))
    words = f"forgotten beyond chance {how}: {{listed}}"
    return [claim("forgot", group.label, words, listed=listing(items), tests=tests, tasks=tuple(tasks),
                  after=tuple(after), final=tuple(final), in_seeds=tuple(seeds))]  # fmt: skip


def _visible(group: RunGroup, courses: Sequence[TaskCourse], scale: Scale) -> list[Claim]:
    """Which drops would have been seen on the tasks that no test calls forgotten."""
    rest = [c for c in courses if c.tested and not c.forgot(scale.measure)]
    if not rest:
        return []
    hidden = dict.fromkeys(c.task for c in rest if math.isinf(c.visible))
    visible = [c.visible for c in rest if c.task not in hidden]
    counts = [count for c in rest for count in (c.after.count, c.final.count)]
    trials = f"n = {min(counts)}" + (f" to {max(counts)}" if max(counts) > min(counts) else "")
    facts: dict[str, Fact] = {"n": trials, "hidden": tuple(task_name(task) for task in hidden)}
    seed = " in at least one seed" if len(group.runs) > 1 else ""
    which = "on each of the other tasks" if len(rest) < sum(c.tested for c in courses) else "on each old task"
    if not visible:
        words = f"on {{hidden}} no {scale.fall} at all could have been told from chance{seed} ({{n}})"
        return [claim("visible", group.label, words, **facts)]
    facts["drop"] = scale.drop(max(visible), up=True)
    aside = f", except on {{hidden}}, where none could{seed}" if hidden else ""
    words = f"{which} a {scale.fall} of {{drop}} or more would have shown{aside} ({{n}})"
    return [claim("visible", group.label, words, **facts)]


def _never(group: RunGroup, courses: Sequence[TaskCourse], scale: Scale) -> list[Claim]:
    """Tasks that stayed low in every cell of every seed, with the best cell."""
    if scale.measure.kind != "proportion" or scale.better != "higher":
        return []
    best: dict[str, float] = {}
    for course in courses:
        best[course.task] = max(best.get(course.task, 0.0), course.best)
    low = {task: scale.shown(score) for task, score in best.items() if score < LEARNT}
    if not low:
        return []
    items = [Markup("{} (best {})").format(task_name(task), shown.text) for task, shown in low.items()]
    words = "it never reached {half} in its matrix on {listed}"
    return [claim("never", group.label, words, half=scale.shown(LEARNT), listed=listing(items),
                  tasks=tuple(low), best=tuple(low.values()))]  # fmt: skip


def _reference(group: RunGroup, scale: Scale) -> list[Claim]:
    """What a reference reached: the bar for methods that learn one task after another."""
    independent = group.arrangement == "independent"
    metric = "learning_accuracy" if independent else "final_average"
    estimate = group.estimates.get(metric)
    around, facts = "", dict[str, Fact]()
    if estimate is not None and not math.isnan(estimate.value):
        around, facts = _around(group, metric, estimate, scale)
    elif independent and group.finished:
        estimate = _of_all_learnt(group)
    if estimate is None or math.isnan(estimate.value):
        return []
    several = any(len(tasks) > 1 for _, tasks in group.first.experiences)
    alone = "one model per experience" if several else "one model per task"
    words = f"<strong>{{label}}</strong>{{seeds}}, a reference ({{how}}), reaches <strong>{{value}}</strong>{around}"
    how = alone if independent else "learning all tasks at once"
    return [claim("reference", group.label, words, label=group.label, seeds=_seeds(group), how=how,
                  value=scale.shown(estimate.value), **facts)]  # fmt: skip


def _of_all_learnt(group: RunGroup) -> Estimate:
    """Mean score of what each experience brought; where that is several tasks, no metric says it."""
    cells = [
        cell_score(run.matrix, row, run.matrix.tasks.index(task))
        for run in group.runs
        if run.matrix is not None
        for row, (_, tasks) in enumerate(run.experiences)
        for task in tasks
        if row < len(run.matrix.experiences) and task in run.matrix.tasks
    ]
    known = [score for score in cells if score is not None]
    whole = bool(known) and len(known) == len(cells)
    return Estimate(sum(known) / len(known) if whole else math.nan, math.nan, math.nan)


def _unfinished(run: RunRecord, scale: Scale) -> Claim:
    """How far a run has come."""
    matrix = run.matrix
    end = last_row(matrix) if matrix is not None else None
    words = "<strong>{label}</strong> is not finished: {done} of {experiences} evaluated so far"
    facts: dict[str, Fact] = {
        "label": run.label, "done": 0 if end is None else end + 1,
        "experiences": _count(len(run.experiences), "experience"),
    }  # fmt: skip
    if matrix is not None and end is not None:
        cells = [(task, cell_score(matrix, end, column)) for column, task in enumerate(matrix.tasks)]
        known = [(task_name(task), scale.shown(score)) for task, score in cells if score is not None]
        facts["listed"] = listing([Markup("{} at {}").format(name, shown.text) for name, shown in known])
        facts["scores"] = tuple(shown for _, shown in known)
        words += " ({listed})"
    return claim("unfinished", run.label, words, **facts)


def _count(number: int, noun: str) -> Shown:
    return Shown(number, counted(number, noun))

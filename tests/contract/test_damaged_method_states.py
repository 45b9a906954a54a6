"""A method's saved state that was changed is refused, or changes nothing; it never goes on as something else."""

import copy
import json

import pytest
import torch
from method_neutral import method_settings
from safetensors.torch import save_file
from small_beds import small_bed

from vla_cl.config.compose import build
from vla_cl.files import write_json
from vla_cl.interfaces import Method
from vla_cl.run.checkpoint import load_method
from vla_cl.training.learning import Learning
from vla_cl.types import ConfigurationError

SETTINGS = method_settings()
OTHER_TYPES = (None, True, 1.5, "text", [], {}, 10**30)


@pytest.fixture(scope="module")
def bed():
    return small_bed("language")


def learnt(bed, model, method, experiences):
    for index in experiences:
        data, first = bed.data[index], index * bed.tiny.steps
        list(Learning(model, method, bed.stream.experiences[index], data, bed.tiny, 0, first))


def resumed(bed, new, tensors, extra, folder):
    """Three tasks' weights and state, the third after a resume from this state; None: it was refused.

    ``new``: a model after two tasks, and a method that has only met it.
    """
    model, method = copy.deepcopy(new)
    (folder / "cl_state").mkdir(exist_ok=True)
    save_file(tensors, folder / "cl_state" / "method.safetensors")
    write_json(folder / "cl_state" / "method.json", {"method": method.name, "state": extra})
    past = ((experience, bed.data[experience.index]) for experience in bed.stream.experiences[:2])
    try:
        load_method(folder, method, past)
    except ConfigurationError as error:
        assert "does not fit method" in str(error) and str(error).endswith("use another checkpoint of the run")
        return None
    learnt(bed, model, method, [2])
    return {**model.module.state_dict(), **{f"state {key}": value for key, value in method.state_dict().items()}}


def damaged_tensors(tensors):
    yield "all dropped", {}
    of_kind = {}
    for name in tensors:
        of_kind.setdefault(name.partition(".")[0], []).append(name)
    for name in sorted({names[place] for names in of_kind.values() for place in (0, -1)}):  # two stand for all
        tensor = tensors[name]
        others = {key: value for key, value in tensors.items() if key != name}
        yield f"{name} dropped", others
        yield f"{name} under another name", {**others, f"{name}x": tensor}
        yield f"{name} of one row", {**others, name: tensor[:1].clone()}
        yield f"{name} of more dimensions", {**others, name: tensor[None].clone()}
        yield f"{name} transposed or cut", {**others, name: tensor[..., :-1].clone()}
        yield (
            f"{name} of another type",
            {**others, name: tensor.double() if tensor.is_floating_point() else tensor + 0.0},
        )
        odd = tensor.clone()
        odd.view(-1)[-1] = float("nan") if odd.is_floating_point() else 99 if odd.dtype == torch.uint8 else -1
        yield f"{name} with an odd number", {**others, name: odd}
        if tensor.dtype == torch.float32:
            infinite = tensor.clone()
            infinite.view(-1)[-1] = float("inf")
            yield f"{name} with an infinite number", {**others, name: infinite}
        if name.startswith("importance."):
            yield f"{name} negative", {**others, name: -1 - tensor}


def damaged_extra(extra):
    """Each entry, at any depth, dropped or of another type."""
    for place in places(extra):
        for value in ("dropped", *OTHER_TYPES):
            changed = copy.deepcopy(extra)
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            if value == "dropped":
                del parent[place[-1]]
            elif parent[place[-1]] == value and type(parent[place[-1]]) is type(value):
                continue
            elif value == [] and place[0] == "confidences":
                continue  # as where nothing of the task has been replayed
            else:
                parent[place[-1]] = value
            yield f"{place} {value}", changed


def places(node, above=()):
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for number, (key, value) in enumerate(entries):
        if isinstance(node, dict) or number == 0:  # of a list's entries one stands for all
            yield (*above, key)
            yield from places(value, (*above, key))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_state_is_refused_or_changes_nothing(bed, name, tmp_path):
    model, method = bed.make_model(0), build(SETTINGS[name], Method)
    if method.needs - model.abilities:
        pytest.skip(f"{name} is refused on {bed.name}")
    method.attach(model, 0)
    learnt(bed, model, method, range(2))
    unmet = bed.make_model(0), build(SETTINGS[name], Method)
    unmet[1].attach(unmet[0], 0)
    unmet[0].module.load_state_dict(model.module.state_dict())
    tensors = {key: value.detach().clone().contiguous() for key, value in method.state_dict().items()}
    extra = json.loads(json.dumps(method.extra_state()))
    right = resumed(bed, unmet, tensors, extra, tmp_path)
    assert right is not None
    cases = [(what, changed, extra) for what, changed in damaged_tensors(tensors) if tensors]
    cases += [(what, tensors, changed) for what, changed in damaged_extra(extra)]
    cases += [("more tensors", {**tensors, "more": torch.ones(1)}, extra), ("more", tensors, {**extra, "more": 1})]
    refused = 0
    for what, changed, more in cases:
        found = resumed(bed, unmet, changed, more, tmp_path)
        refused += found is None
        if found is not None:
            different = [key for key in right if key not in found or not torch.equal(right[key], found[key])]
            assert found.keys() == right.keys() and not different, what
    assert refused >= 2

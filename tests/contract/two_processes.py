"""Run by test_two_processes in each of two processes: learns two tasks with each method, compares the weights."""

import dataclasses
import json
import sys

import torch
from accelerate import PartialState
from method_neutral import method_settings
from small_beds import small_bed

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.training.learning import Learning
from vla_cl.types import ConfigurationError


def learnt(settings, bed):
    """The weights after two tasks, all behind each other; None with a sentence if the method refuses."""
    model, method = bed.make_model(0), build(settings, Method)
    try:
        method.attach(model, 0)
        for index in range(2):
            experience = bed.stream.experiences[index]
            for _ in Learning(model, method, experience, bed.data[index], bed.tiny, 0, index * bed.tiny.steps):
                pass
    except ConfigurationError as error:
        return None, str(error)
    return torch.cat([tensor.detach().flatten().float() for tensor in model.module.state_dict().values()]), None


def main(bed_name, output):
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    bed = small_bed(bed_name)
    bed = dataclasses.replace(bed, tiny=dataclasses.replace(bed.tiny, steps=4))
    found = {}
    for name, settings in method_settings().items():
        weights, refused = learnt(settings, bed)
        if refused is None:
            both = [torch.empty_like(weights) for _ in range(state.num_processes)]
            if state.num_processes > 1:
                torch.distributed.all_gather(both, weights)
                found[name] = {"equal": torch.equal(*both), "norm": weights.norm().item()}
            torch.save(weights, f"{output}.{name}.{state.num_processes}")
        else:
            found[name] = {"refused": refused}
    if state.is_main_process:
        with open(output, "w", encoding="utf-8") as file:  # noqa: PTH123 - a script
            json.dump(found, file)
    if state.num_processes > 1:  # one that ends while another still talks to it aborts
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Every method under accelerate with two processes (gloo): the same weights in both, and those of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from method_neutral import PROCESS_BOUND, method_settings

HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
BED = "policy_regression"  # its loss draws no noise, so that halves of a batch are the same in one process and in two


def launch(output, world):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world):
        launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        launched |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "1"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS}
        environment |= launched if world > 1 else {}
        command = [sys.executable, str(HERE / "two_processes.py"), BED, str(output)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    output = tmp_path_factory.mktemp("processes") / "found.json"
    launch(output, 1)
    launch(output, 2)
    return output, json.loads(output.read_text())


@pytest.mark.parametrize("name", method_settings())
def test_two_processes_learn_what_one_learns(found, name):
    output, results = found
    result = results[name]
    if "refused" in result:
        assert name in PROCESS_BOUND or "needs a model with" in result["refused"]
        return
    assert result["equal"], "the processes ended with different weights"
    one, two = (torch.load(f"{output}.{name}.{world}", weights_only=True) for world in (1, 2))
    assert (one - two).norm() <= 2e-3 * one.norm()

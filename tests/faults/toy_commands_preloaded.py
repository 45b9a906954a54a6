"""What the commands import, imported once by the process that the others are forked from."""

import pandas  # noqa: F401
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: F401

import vla_cl.cli
import vla_cl.continual
import vla_cl.evaluate
import vla_cl.memory_command
import vla_cl.report
import vla_cl.rollout.collect  # noqa: F401

torch.set_num_threads(1)

"""What the commands import, imported once by the process that the others are forked from."""

import pandas  # noqa: F401
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: F401

torch.set_num_threads(1)

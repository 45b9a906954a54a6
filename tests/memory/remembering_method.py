"""Experience replay whose memory is described in full."""

from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.methods.er import ExperienceReplay


class RememberingReplay(ExperienceReplay):
    def __init__(self, memory: dict):
        super().__init__(samples_per_task=1, mixing="added", share=1.0, selection="uniform")
        self.memory = ReplayMemory.from_settings(memory)

    def end_task(self, experience, data):
        self.memory.remember(experience, data, self.train_seed, self.model)

"""The evaluation engine: worker processes, scheduling of episodes, the episode table and videos."""

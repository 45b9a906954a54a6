"""What the user typed becomes settings that can be used: overrides, paths, and the bounds of every value.

Nothing here imports Hydra, torch or LeRobot; `vla_cl.config.compose` puts it together.
"""

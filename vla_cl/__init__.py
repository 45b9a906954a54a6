"""Continual learning for vision-language-action policies, on unmodified LeRobot.

Importing this package is instant: torch, LeRobot and the simulators are imported by the modules that need them.
"""

__version__ = "0.1.0"

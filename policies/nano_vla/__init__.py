"""NanoVLA, a small vision-language-action policy; importing this package registers it with LeRobot as ``nano_vla``."""

from vla_cl.policies.nano_vla.configuration_nano_vla import NanoVLAConfig

__all__ = ["NanoVLAConfig"]

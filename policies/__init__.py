"""Policies of our own, as LeRobot plug-ins: one policy, one folder. Imported as ``vla_cl.policies``."""

if __name__ != "vla_cl.policies":
    raise ImportError(f"import this folder as vla_cl.policies, not as {__name__}")

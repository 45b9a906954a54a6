"""Hydra configuration: one small yaml per stream, suite, policy, method. Shipped as ``vla_cl.conf``."""

if __name__ != "vla_cl.conf":
    raise ImportError(f"import this folder as vla_cl.conf, not as {__name__}")

"""Simulated suites and their scripted experts: one suite, one file. Imported as ``vla_cl.envs``."""

if __name__ != "vla_cl.envs":
    raise ImportError(f"import this folder as vla_cl.envs, not as {__name__}")

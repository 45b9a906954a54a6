"""The gate: every file that somebody else may have written is looked at here before any library sees it.

Nothing is executed from data, every read has a bound, and paths stay inside their folder. A file that fails raises a
`vla_cl.types.ConfigurationError` of one sentence. ``tests/trust/test_ways_in.py`` finds readers that go past the gate.
"""

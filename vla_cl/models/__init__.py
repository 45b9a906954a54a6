"""The model families: what wraps a library's network into a ``Model``."""

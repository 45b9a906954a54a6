"""The calls of the file system that a save makes; one of them fails."""

import builtins
import io
import os
from pathlib import Path


class FailingCalls:
    """Within the block, call number ``number`` of open, write, fsync, rename, mkdir, unlink or rmdir fails."""

    def __init__(self, monkeypatch, number, error):
        self.number, self.error = number, error
        self.failed = False
        self._patch = monkeypatch

    def __enter__(self):
        self._context = self._patch.context()
        patch = self._context.__enter__()
        for name in ("open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "ftruncate"):
            patch.setattr(os, name, self._counted(getattr(os, name), name))
        opened = self._counted(self._writing(io.open), "open")
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        return self

    def __exit__(self, *error):
        self._context.__exit__(*error)

    def _counted(self, function, name):
        def call(*arguments, **more):
            self.tick(name, arguments)
            return function(*arguments, **more)

        return call

    def tick(self, name, arguments=()):
        if self.number == 0 and not self.failed:
            self.failed = True
            raise OSError(self.error, f"injected into {name}", str(arguments[0]) if arguments else None)
        self.number -= 1

    def _writing(self, function):
        def opened(file, mode="r", *arguments, **more):
            result = function(file, mode, *arguments, **more)
            if isinstance(file, str | Path) and set(mode) & set("wax+"):
                write = result.write
                result = _File(result, write, self)
            return result

        return opened


class _File:
    """A file whose writes are counted."""

    def __init__(self, file, write, calls):
        self.__dict__.update(_file=file, _write=write, _calls=calls)

    def write(self, content):
        self._calls.tick("write")
        return self._write(content)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __setattr__(self, name, value):
        setattr(self._file, name, value)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def __iter__(self):
        return iter(self._file)

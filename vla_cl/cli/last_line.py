"""The last line of defence: whatever goes wrong, the user reads one sentence and gets the exit status that fits.

``--debug`` shows the traceback besides. SIGTERM and SIGHUP unwind like Ctrl-C, so that ``finally`` blocks run,
files are closed and workers end.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import select
import signal
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from vla_cl.cli.answers import write_json
from vla_cl.training.stopping import ASKING, Stopped
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

FAILED = 1
BAD_INPUT = 2
BROKEN_PIPE = 128 + signal.SIGPIPE

LONGEST = 300
"""Characters of a sentence; of a longer one the middle is left out."""

_OURS = (Path(__file__).parents[1], *(Path(__file__).parents[2] / name for name in ("envs", "policies")))
_UNWINDING = tuple(number for number in ASKING if number is not signal.SIGINT)
_REFUSED = {
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system can only be read",
    errno.ENOTDIR: "a file is in the way of a folder",
    errno.EISDIR: "it is a folder, and a file was expected",
    errno.EEXIST: "it exists already",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "links lead in a circle",
}
"""Of a file, what the user can mend in the command."""

_FAILED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than the system allows (ulimit -f)",
    errno.EIO: "the disk or its connection fails (input/output error)",
    errno.ESTALE: "the network disk has lost the file",
    errno.EMFILE: "too many files are open (raise ulimit -n, or lower the number of workers)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "there is not enough memory",
    errno.EAGAIN: "the system gives no more processes or threads (lower threads and workers, or raise ulimit -u)",
    errno.ENOENT: "a file or folder is missing, or cannot be made there",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_MACHINE = (*_FULL, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EROFS)
_HIDDEN = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]|\d+ requested and \d+ written")
"""Of Rust, of Python, of numpy, which says no more than that not all could be written."""

_LIBRARIES = {
    "safetensors": "a file of weights",
    "safetensors_rust": "a file of weights",
    "lerobot": "a policy or a dataset",
    "pyarrow": "a table (parquet)",
    "av": "a video",
    "PIL": "a picture",
    "zipfile": "an archive",
    "json": "a JSON file",
    "yaml": "a yaml file",
    "hydra": "the settings",
    "omegaconf": "the settings",
    "draccus": "the policy's configuration",
    "huggingface_hub": "what was asked of the Hugging Face hub",
    "httpx": "what was asked of the network",
    "requests": "what was asked of the network",
    "urllib": "what was asked of the network",
    "jinja2": "the report's page",
    "wandb": "the account of wandb (wandb login, WANDB_API_KEY or WANDB_MODE=offline)",
}
"""Of the top-level module of an error's class: what could not be read."""


def guarded(
    command: Callable[[], int], debug: bool, hint: str = "the same command continues", as_json: bool = False
) -> int:
    """Run a command; its exit status.

    Args:
        command: Returns its own exit status if nothing goes wrong.
        debug: Also show the traceback.
        hint: What to do after the command was stopped.
        as_json: Also print the sentence on stdout, as ``{"error": ..., "status": ...}``.
    """
    with _signals(), _quiet(debug):
        try:
            status = command()
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
        except BaseException as error:
            if isinstance(error, SystemExit):
                raise
            if isinstance(error, BrokenPipeError) and _reader_is_gone():
                _abandon_output()
                return BROKEN_PIPE
            status, sentence = explained(error, hint)
            if as_json:
                _print_json(sentence, status)
            _report(sentence, error if debug else None)
            return status


def explained(error: BaseException, hint: str = "the same command continues") -> tuple[int, str]:
    """The exit status and the sentence for an error."""
    if isinstance(error, Stopped):
        return 128 + error.number, f"stopped by {error}; {hint}"
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, f"stopped; {hint}"
    if isinstance(error, ConfigurationError):
        return BAD_INPUT, str(error)
    for explain in (_of_memory, _of_import, _of_system, _of_library, _of_file):
        if (found := explain(error)) is not None:
            return found
    if isinstance(error, FloatingPointError):
        return FAILED, _first_words(error)
    return FAILED, _of_somebody(error)


def _of_memory(error: BaseException) -> tuple[int, str] | None:
    words = str(error)
    if isinstance(error, RecursionError):
        return FAILED, f"something is nested too deeply ({_first_words(error)}); run again with --debug to see where"
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in words:
        return FAILED, "the GPU's memory is not enough; lower training.batch_size, or take another policy or device=cpu"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in words:
        return FAILED, "the memory is not enough; lower training.batch_size, evaluation.workers or the number of data"
    if isinstance(error, RuntimeError) and ("CUDA error" in words or "cuDNN error" in words):
        return FAILED, f"the GPU fails ({_first_words(error)}); check it with nvidia-smi, or use device=cpu"
    if isinstance(error, RuntimeError) and "can't start new thread" in words:
        return FAILED, _FAILED[errno.EAGAIN]
    return None


def _of_import(error: BaseException) -> tuple[int, str] | None:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return BAD_INPUT, (
            f"the module {error.name!r} cannot be found; install it (`pip install {package}`; of your own, "
            "`pip install -e FOLDER`, or set PYTHONPATH to the folder that holds it)"
        )
    if isinstance(error, ImportError):
        return BAD_INPUT, f"something that is needed cannot be imported: {_first_words(error)}"
    return None


def _of_system(error: BaseException) -> tuple[int, str] | None:
    """Trouble of the machine that a library has put into an error of its own: safetensors on a full disk, say."""
    if isinstance(error, OSError) and error.errno is not None:
        return None
    inner: BaseException | None = error
    while inner is not None:
        number = inner.errno if isinstance(inner, OSError) else None
        if number is None and (match := _HIDDEN.search(str(inner))):
            number = int(match[1] or match[2] or errno.ENOSPC)
        if number in _MACHINE:
            return _of_file(OSError(number, os.strerror(number)))
        inner = inner.__cause__ or inner.__context__
    return None


def _of_library(error: BaseException) -> tuple[int, str] | None:
    for kind in type(error).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in _LIBRARIES and not isinstance(error, OSError | ImportError | AttributeError | TypeError):
            return FAILED, f"{_LIBRARIES[package]} cannot be read ({type(error).__name__}: {_first_words(error)})"
        if package in _LIBRARIES and isinstance(error, OSError) and error.errno not in {**_FAILED, **_REFUSED}:
            where = f" {error.filename}" if error.filename else ""
            return FAILED, f"{_LIBRARIES[package]}{where} cannot be had ({type(error).__name__}: {_first_words(error)})"
    return None


def _of_file(error: BaseException) -> tuple[int, str] | None:
    if not isinstance(error, OSError):
        return None
    paths = " to ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
    where = f" ({paths})" if paths else ""
    if error.errno in _FULL:
        return FAILED, (
            f"{_FAILED[error.errno]}{where}; free some space, or set output_dir and cache_dir to another disk, and "
            "give the same command again: it continues"
        )
    if error.errno in _FAILED:
        return FAILED, f"{_FAILED[error.errno]}{where}; mend that and give the same command again"
    if error.errno in _REFUSED:
        return (
            BAD_INPUT,
            f"{_REFUSED[error.errno]}{where}; give another path (output_dir, cache_dir, HOME or the argument)",
        )
    return FAILED, f"the system refuses ({type(error).__name__}: {error.strerror or _first_words(error)}){where}"


def _of_somebody(error: BaseException) -> str:
    """Whose fault an unexpected error is: that of the innermost module that is neither a library nor ours."""
    what = f"{type(error).__name__}: {_first_words(error)}" if str(error) else type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not _is_installed(file) and not any(file.is_relative_to(folder) for folder in _OURS):
            return f"{what}, raised in {file}, line {frame.lineno}; run again with --debug for the traceback"
    return f"{what}; this is a fault of vla-cl; run again with --debug for the traceback"


def _is_installed(file: Path) -> bool:
    places = sysconfig.get_paths()
    return any(file.is_relative_to(places[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _first_words(error: BaseException) -> str:
    """The message in one line, cut where it becomes long."""
    return harmless(" ".join(str(error).split()), 160) or type(error).__name__


def _report(sentence: str, error: BaseException | None) -> None:
    """Print the sentence as the last line, whatever became of the output."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout is not None:
            sys.stdout.flush()
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            if error is not None:
                traceback.print_exception(error)
            print(f"vla-cl: {shortened(sentence)}", file=sys.stderr, flush=True)
    _abandon_output(only_if_broken=True)


def _print_json(sentence: str, status: int) -> None:
    """The one document of a command that came to nothing; that stdout is full or gone changes neither of both."""
    with contextlib.suppress(OSError, ValueError):
        write_json({"error": shortened(sentence), "status": status})


def shortened(sentence: str) -> str:
    """One line of at most `LONGEST` characters; what to do stands at the end, so the middle is left out."""
    line = harmless(" ".join(sentence.split()), 100_000)
    if len(line) <= LONGEST:
        return line
    end = LONGEST // 3
    return f"{line[: LONGEST - end - 5]} ... {line[-end:]}"


def _reader_is_gone() -> bool:
    """Whether whoever read our output has closed it (``vla-cl metrics run | head``)."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _abandon_output(only_if_broken: bool = False) -> None:
    """Lead the standard output nowhere, so that Python's own last flush does not fail with a message of its own."""
    try:
        if only_if_broken:
            if sys.stdout is not None:
                sys.stdout.flush()
            return
    except (OSError, ValueError):
        pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Signals that ask to stop raise `Stopped`; the second one ends the program. Not in threads, nor under nohup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    taken = [number for number in _UNWINDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Without ``--debug``: no warnings of libraries, no tracebacks of threads; what cannot be written is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if debug:
        yield
        return
    before = threading.excepthook
    threading.excepthook = _of_thread
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(?!vla_cl)")
            yield
    finally:
        threading.excepthook = before


def _of_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is not None and sys.stderr is not None:
        print(f"vla-cl: a thread ended: {shortened(explained(given.exc_value)[1])}", file=sys.stderr)

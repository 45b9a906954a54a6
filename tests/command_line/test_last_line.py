"""Whatever goes wrong: one sentence, the right exit status, and a traceback only with --debug."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from vla_cl.cli.last_line import BAD_INPUT, FAILED, LONGEST, Stopped, explained, shortened
from vla_cl.cli.main import main
from vla_cl.metrics import compute_all
from vla_cl.types import ConfigurationError


def raised(make):
    """The error with a traceback, as it is when it arrives."""
    try:
        raise make() if callable(make) else make
    except BaseException as error:  # noqa: BLE001
        return error


def of_library(kind):
    import av
    import draccus
    import hydra.errors
    import jinja2
    import omegaconf.errors
    import PIL
    import pyarrow
    import yaml
    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError

    return {
        "safetensors": SafetensorError("header too large"),
        "pyarrow": pyarrow.ArrowInvalid("not a parquet file"),
        "av": av.error.InvalidDataError(1094995529, "Invalid data", "a.mp4"),
        "PIL": PIL.UnidentifiedImageError("cannot identify image file"),
        "hydra": hydra.errors.HydraException("no"),
        "omegaconf": omegaconf.errors.ConfigKeyError("no"),
        "draccus": draccus.utils.ParsingError("no"),
        "huggingface_hub": HFValidationError("no"),
        "yaml": yaml.YAMLError("no"),
        "jinja2": jinja2.TemplateError("no"),
        "zipfile": zipfile.BadZipFile("no"),
        "json": json.JSONDecodeError("no", "", 0),
    }[kind]


def os_error(number):
    return OSError(number, os.strerror(number), "/some/file")


REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.EAGAIN,
         errno.ENOENT, errno.ETXTBSY, errno.EPIPE, errno.ECONNREFUSED, errno.ENETUNREACH)  # fmt: skip


@pytest.mark.parametrize("number", [*REFUSED, *FAILS], ids=errno.errorcode.get)
def test_every_error_of_a_file_is_a_sentence_that_names_it(number):
    status, sentence = explained(raised(os_error(number)))
    assert status == (BAD_INPUT if number in REFUSED else FAILED)
    assert "/some/file" in sentence
    assert "fault of vla-cl" not in sentence


@pytest.mark.parametrize(
    "kind",
    ["safetensors", "pyarrow", "av", "PIL", "hydra", "omegaconf", "draccus", "huggingface_hub", "yaml", "jinja2",
     "zipfile", "json"],
)  # fmt: skip
def test_an_error_of_a_library_says_what_could_not_be_read(kind):
    status, sentence = explained(raised(of_library(kind)))
    assert status == FAILED
    assert "cannot be" in sentence
    assert "fault of vla-cl" not in sentence


WRITERS = {
    "safetensors": "import torch; from safetensors.torch import save_file; save_file({'x': torch.zeros(2**20)}, path)",
    "pyarrow": "from pyarrow import parquet, table; parquet.write_table(table({'x': list(range(2**18))}), path)",
    "numpy": "import numpy as np; np.save(path, np.zeros(2**20))",
    "of an encoder": "raise RuntimeError('the encoder failed') from OSError(122, 'Disk quota exceeded')",
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_told_as_one_whatever_a_library_makes_of_it(tmp_path, library):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))"
    done = finished(f"path = {str(tmp_path / 'file')!r}; {limited}; {WRITERS[library]}")
    assert done.returncode == FAILED
    assert "free some space" in done.stderr


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigurationError("so it is"), 2, "so it is"),
        (FloatingPointError("training diverged"), 1, "training diverged"),
        (MemoryError(), 1, "memory is not enough"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"),
            1,
            "memory is not enough",
        ),
        (RuntimeError("CUDA error: device-side assert triggered"), 1, "the GPU fails"),
        (RuntimeError("can't start new thread"), 1, "no more processes or threads"),
        (RecursionError("maximum recursion depth exceeded"), 1, "nested too deeply"),
        (ModuleNotFoundError("No module named 'gym_x'", name="gym_x.y"), 2, "pip install gym_x"),
        (ModuleNotFoundError("No module named 'gym_x'", name="gym_x.y"), 2, "PYTHONPATH"),
        (ImportError("libGL.so.1: cannot open shared object file"), 2, "libGL.so.1"),
        (KeyboardInterrupt(), 130, "stopped"),
        (Stopped(signal.SIGTERM), 143, "SIGTERM"),
        (Stopped(signal.SIGHUP), 129, "SIGHUP"),
    ],
)
def test_the_exit_status_says_whose_turn_it_is(error, status, words):
    found, sentence = explained(raised(error))
    assert found == status
    assert words in sentence


def test_an_unexpected_error_in_our_code_is_our_fault():
    def fail():
        compute_all(None)

    with pytest.raises(AttributeError) as found:
        fail()
    found.value.__traceback__ = found.value.__traceback__.tb_next.tb_next  # without the frames of this file
    assert "fault of vla-cl" in explained(found.value)[1]


def test_an_unexpected_error_in_somebody_elses_code_names_the_line():
    assert f"raised in {__file__}, line" in explained(raised(ZeroDivisionError("by zero")))[1]


def test_a_sentence_is_one_short_line_without_control_characters():
    shown = shortened("a\n" * 400 + "\x1b[31mred" + "; do this")
    assert len(shown) <= LONGEST
    assert shown.isprintable()
    assert shown.endswith("; do this")


def run(code, **options):
    """A command whose work is ``code``, in a process of its own."""
    program = f"import sys\nfrom vla_cl.cli.last_line import guarded\ndef work():\n    {code}\n    return 0\n"
    program += "sys.exit(guarded(work, '--debug' in sys.argv))"
    return [sys.executable, "-c", program], {"text": True, "stderr": subprocess.PIPE, **options}


def finished(code, *arguments, **options):
    command, options = run(code, **options)
    return subprocess.run([*command, *arguments], check=False, timeout=60, **options)


def test_debug_shows_the_traceback_and_the_sentence_last():
    quiet, loud = finished("1 / 0"), finished("1 / 0", "--debug")
    assert quiet.returncode == loud.returncode == FAILED
    assert quiet.stderr.count("\n") == 1
    assert "Traceback" in loud.stderr
    assert loud.stderr.splitlines()[-1].startswith("vla-cl: ZeroDivisionError")


def test_a_full_device_behind_the_standard_output():
    with Path("/dev/full").open("w") as full:
        done = finished("print('figures')", stdout=full)
    assert done.returncode == FAILED
    assert done.stderr.startswith("vla-cl: the disk is full")
    assert done.stderr.count("\n") == 1


def test_a_file_larger_than_the_system_allows(tmp_path):
    done = finished(
        f"open({str(tmp_path / 'file')!r}, 'w').write('x' * 100_000)",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == FAILED
    assert "larger than the system allows" in done.stderr


def test_a_reader_that_has_seen_enough(tmp_path):
    command, options = run("print('x' * 10_000_000)", stdout=subprocess.PIPE)
    process = subprocess.Popen(command, **options)
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_unwind(number, status, tmp_path):
    code = f"""import pathlib, time
    try:
        pathlib.Path({str(tmp_path / "began")!r}).touch()
        time.sleep(60)
    finally:
        pathlib.Path({str(tmp_path / "unwound")!r}).touch()"""
    command, options = run(code)
    process = subprocess.Popen(command, **options)
    while not (tmp_path / "began").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) == status
    assert (tmp_path / "unwound").exists()
    assert process.stderr.read().count("\n") == 1
    process.stderr.close()


def test_no_memory_and_a_missing_module_end_in_a_sentence():
    assert finished("bytearray(10 ** 15)").returncode == FAILED
    done = finished("import no_such_package")
    assert done.returncode == BAD_INPUT
    assert "'no_such_package' cannot be found" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["metrics", "/proc/self/mem"], ["metrics", "/dev/null"], ["metrics", "/"], ["report", "/etc/passwd"],
        ["compare", "/proc"], ["memory", "/dev/null"], ["metrics", "x" * 5000], ["evaluate", "/etc/passwd"],
        ["metrics", ""], ["report", "~nobody-of-this-name/run"],
    ],
)  # fmt: skip
def test_arguments_that_are_no_results(arguments, capsys):
    assert main(arguments) in (FAILED, BAD_INPUT)
    said = capsys.readouterr().err
    assert said.startswith("vla-cl: ")
    assert said.count("\n") == 1
    assert len(said) <= LONGEST + len("vla-cl: \n")

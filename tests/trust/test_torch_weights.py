"""PyTorch's own files are pickles: what their name does not vouch for, or what is more than tensors, is not loaded."""

import hashlib
import os
import pickle

import pytest
import torch

from vla_cl.trust.torch_weights import check_torch_weights
from vla_cl.types import ConfigurationError


class Code:
    """A pickle of it calls ``os.mkdir``."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def named(folder, digits=8):
    """The file, renamed to what torchvision would call it."""
    path = folder / "weights"
    return path.rename(folder / f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:digits]}.pth")


def refused(path):
    with pytest.raises(ConfigurationError) as found:
        check_torch_weights(path, "remove the file")
    assert len(str(found.value)) <= 300
    return str(found.value)


@pytest.mark.parametrize("digits", [8, 64])
def test_tensors_pass(tmp_path, digits):
    torch.save({"layer.weight": torch.ones(3, 4)}, tmp_path / "weights")
    check_torch_weights(named(tmp_path, digits), "remove the file")


@pytest.mark.parametrize("save", [torch.save, lambda made, path: path.write_bytes(pickle.dumps(made, 2))])
def test_code_does_not_run_whatever_the_name_says(tmp_path, save):
    save({"layer": Code(tmp_path / "ran")}, tmp_path / "weights")
    assert "hold more than tensors" in refused(named(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:40] + bytes([c[40] ^ 1]) + c[41:], lambda c: b"x"])
def test_other_content_than_the_name_says_is_refused(tmp_path, damage):
    torch.save({"a": torch.ones(3)}, tmp_path / "weights")
    path = named(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert "another content" in refused(path)


@pytest.mark.parametrize("name", ["resnet18.pth", "resnet18-.pth", "resnet18-zzzzzzzz.pth", "resnet18-12.pth"])
def test_a_name_without_a_hash_vouches_for_nothing(tmp_path, name):
    torch.save({"a": torch.ones(3)}, tmp_path / name)
    assert "another content" in refused(tmp_path / name)

"""PyTorch's own files are pickles: what their name does not vouch for, or what is more than tensors, is not loaded."""

import hashlib
import os
import pickle

import pytest
import torch
import torchvision

from vla_cl.models.policy_config import check_buildable, policy_config
from vla_cl.trust.torch_weights import check_torch_weights
from vla_cl.types import ConfigurationError, InterfaceSpec


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
def test_code_does_not_run_even_if_the_name_fits(tmp_path, monkeypatch, save):
    """Eight digits of a hash can be forged: the policy's pre-flight asks torch for tensors only."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    save({"layer": Code(tmp_path / "ran")}, folder / "weights")
    path = named(folder)
    check_torch_weights(path, "remove the file")
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value, "url", f"https://nowhere/{path.name}")
    spec = InterfaceSpec({"observation.image": (96, 96)}, 4, 4)
    with pytest.raises(ConfigurationError, match="hold more than tensors") as found:
        check_buildable(policy_config("act", {}, spec, "cpu"))
    assert len(str(found.value)) <= 300
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

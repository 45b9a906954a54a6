"""What really happens to parameters: which are used in which order, and which change what the model does."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Used(TorchDispatchMode):
    """Names of the parameters that operations take, by their first and by their last use."""

    def __init__(self, module):
        super().__init__()
        self._names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._first, self._last = {}, {}

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        for value in tree_leaves((arguments, keywords)):
            if (name := self._names.get(id(value))) is not None:
                self._first.setdefault(name)
                self._last.pop(name, None)
                self._last[name] = None
        return operation(*arguments, **(keywords or {}))

    @property
    def first(self):
        return list(self._first)

    @property
    def last(self):
        return list(self._last)


def without_influence(module, groups, act, tries=4):
    """The groups (name to parameters' names) of which no other values change what ``act()`` gives, each alone."""
    before = act()
    generator = torch.Generator().manual_seed(3)

    def changes(names):
        kept = {name: module.get_parameter(name).clone() for name in names}
        for name in names:
            module.get_parameter(name).add_(3 * torch.randn(kept[name].shape, generator=generator))
        changed = not torch.equal(act(), before)
        for name, values in kept.items():
            module.get_parameter(name).copy_(values)
        return changed

    with torch.no_grad():  # several tries, since a code may be drawn as before
        found = [group for group, names in groups.items() if not any(changes(names) for _ in range(tries))]
    assert torch.equal(act(), before)
    return found


def stir(module, seed=7):
    """Other values everywhere: networks begin with zeros that hide what stands before them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

"""How much the backward pass keeps in memory: the peak of what autograd has saved."""

from collections import Counter

from torch import nn
from torch.autograd.graph import saved_tensors_hooks


class SavedTensors(saved_tensors_hooks):
    """Inside this context: `peak` is the largest number of bytes that graphs held at a time, weights left out."""

    def __init__(self):
        self.live = self.peak = 0
        self.holders = Counter()
        super().__init__(self._pack, lambda saved: saved.tensor)

    def __enter__(self):
        super().__enter__()
        return self

    def _pack(self, tensor):
        return _Saved(self, tensor)


class _Saved:
    """A tensor in a graph; its storage counts until no graph holds it."""

    def __init__(self, owner, tensor):
        self.owner, self.tensor = owner, tensor.detach()
        weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        storage = tensor.untyped_storage()
        self.storage, self.bytes = storage.data_ptr(), 0 if weight else storage.nbytes()
        if not owner.holders[self.storage]:
            owner.live += self.bytes
            owner.peak = max(owner.peak, owner.live)
        owner.holders[self.storage] += 1

    def __del__(self):
        self.owner.holders[self.storage] -= 1
        if not self.owner.holders[self.storage]:
            self.owner.live -= self.bytes

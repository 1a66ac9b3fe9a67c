"""How much the backward pass keeps in memory: the peak of what autograd has saved."""

from torch.autograd.graph import saved_tensors_hooks


class SavedTensors(saved_tensors_hooks):
    """Inside this context: `peak` is the largest number of bytes that graphs held at a time."""

    def __init__(self):
        self.live = self.peak = 0
        super().__init__(self._pack, lambda saved: saved.tensor)

    def __enter__(self):
        super().__enter__()
        return self

    def _pack(self, tensor):
        return _Saved(self, tensor)


class _Saved:
    """A tensor in a graph, counted until the graph is freed."""

    def __init__(self, owner, tensor):
        self.owner, self.tensor, self.bytes = owner, tensor.detach(), tensor.nbytes
        owner.live += self.bytes
        owner.peak = max(owner.peak, owner.live)

    def __del__(self):
        self.owner.live -= self.bytes

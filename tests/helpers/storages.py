"""Which memory PyTorch has given out, and which of it holds something."""

import numpy
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Storage:
    def __init__(self, storage: torch.UntypedStorage, holds_something: bool):
        self.address, self.bytes, self.weak = storage.data_ptr(), storage.nbytes(), StorageWeakRef(storage)
        self.is_written = numpy.full((self.bytes + 1) // 2, holds_something, "u1")  # of every two bytes


class Storages(TorchDispatchMode):
    """Sees every tensor that is made while it is entered."""

    def __init__(self):
        super().__init__()
        self.known: dict[int, Storage] = {}

    def find(self, address: int) -> Storage:
        """Return the storage that an address lies in."""
        for start, storage in list(self.known.items()):
            if storage.weak.expired():
                del self.known[start]
            elif start <= address < start + storage.bytes:
                return storage
        raise AssertionError(f"unknown-pointer: {address:#x} lies in no tensor")

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        if function.namespace == "ddfnet":  # what its kernel allocates is to be seen too
            with self:
                results = function.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *arguments, **keywords)
        else:
            results = function(*arguments, **keywords)
        name = function._schema.name.split("::")[1]
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                self._see(tensor.untyped_storage(), name)
        return results

    def _see(self, storage: torch.UntypedStorage, name: str) -> None:
        known = self.known.get(storage.data_ptr())
        if known is None or known.weak.expired() or known.bytes != storage.nbytes():
            self.known[storage.data_ptr()] = Storage(storage, holds_something=name not in EMPTY)
        elif name.endswith("_"):
            known.is_written[:] = 1

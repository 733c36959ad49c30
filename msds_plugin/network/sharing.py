"""Weights that several networks hold in common until one of them is changed, and what tells weights apart.

Every network has parameters of its own. On a CPU those of one file are copies-on-write of one original: they take its memory
until something writes to them, by whatever way (``nn.init``, ``.data``, a NumPy view), and then have memory of their own. So
memory is shared, and a change is not.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..errors import WeightsFileError
from ..weights import check_tensor

_lock = threading.RLock()


def _address(tensor: Tensor) -> int:
    # data_ptr() would count as a change, and give a copy-on-write memory of its own.
    address: int = torch._C._data_address(tensor)  # type: ignore[attr-defined]
    return address


class Original:
    """Values that nobody writes to, alive as long as a network was made from them."""

    def __init__(self, values: Tensor) -> None:
        self.values = torch._lazy_clone(values.detach())
        self._place = _address(self.values), self.values.dtype, self.values.shape
        self._forms: dict[torch.dtype, Tensor] = {}

    def kept(self, dtype: torch.dtype, arrange: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The values in another type, and as ``arrange`` arranges a copy of them; made once, whatever is asked for later."""
        if dtype not in self._forms:
            with torch.inference_mode(False):
                copy = self.values.to(dtype, copy=True)
                self._forms[dtype] = copy if arrange is None else arrange(copy)
        return self._forms[dtype]

    @cached_property
    def digest(self) -> str:
        """See :func:`digest`."""
        return digest(self.values)

    def copy(self) -> nn.Parameter:
        """A frozen parameter of these values."""
        return nn.Parameter(torch._lazy_clone(self.values), requires_grad=False)

    def is_unchanged_in(self, tensor: Tensor) -> bool:
        """Whether nothing has written to ``tensor``, a copy, since it was made."""
        return self._place == (_address(tensor), tensor.dtype, tensor.shape)


# By source of the weights, name, dtype.
_originals: WeakValueDictionary[Hashable, Original] = WeakValueDictionary()


def digest(tensor: Tensor) -> str:
    """Tells values apart, all of them; the same for the same values in another type, device or memory format."""
    if tensor.is_meta:
        return "meta"
    values = tensor.detach().cpu()
    if values.is_floating_point():
        single = values.float()
        values = single if torch.equal(single.to(values.dtype), values) else values
    values = values.clone(memory_format=torch.contiguous_format)  # NumPy's view of a copy-on-write would count as a change
    return hashlib.sha256(values.numpy().tobytes() + str((*values.shape, values.dtype)).encode()).hexdigest()


def _slots(net: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Parameter]]:
    for module_name, module in net.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield module, name, f"{module_name}.{name}" if module_name else name, parameter


def share(net: nn.Module, key: Hashable) -> dict[str, Original]:
    """Make the parameters of ``net`` copies of the originals known by ``key``, by which they are known from now on.

    Values that differ from the originals stay as they are, and are nobody else's; so are all with ``key`` None. Only on a
    CPU.

    Returns:
        The originals by the names of the parameters; they must live as long as ``net``.
    """
    made: dict[str, Original] = {}
    with _lock:
        for module, name, full, parameter in _slots(net):
            if parameter.device.type != "cpu":
                continue
            slot = (key, full, parameter.dtype)
            original = None if key is None else _originals.get(slot)
            known = original is not None
            if original is None or not torch.equal(original.values, parameter):
                original = Original(parameter)
            if key is not None and not known:
                _originals[slot] = original
            module._parameters[name] = original.copy()
            made[full] = original
    return made


def adopt(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give ``net`` the values of ``tensors`` (name to tensor), frozen; on a CPU without a copy until either is changed.

    Raises:
        WeightsFileError: a tensor is missing, has another shape, or values that are no weights.
    """
    with _lock:
        for module, name, full, parameter in list(_slots(net)):
            if full not in tensors or tensors[full].shape != parameter.shape:
                raise WeightsFileError(f"the tensors given as weights lack {full!r} of shape {tuple(parameter.shape)}")
            check_tensor(full, tensors[full], "the tensors given as weights")
            given = tensors[full].detach()
            values = torch._lazy_clone(given) if given.device.type == "cpu" else given.clone()
            module._parameters[name] = nn.Parameter(values, requires_grad=False)


_held: ContextVar[dict[Hashable, Any] | None] = ContextVar("held", default=None)

T = TypeVar("T")


def unchanging() -> AbstractContextManager[None]:
    """A context in which weights are looked at once: for EfficientNet-Lite0 each look takes 0.15 ms."""
    return nullcontext() if torch.compiler.is_compiling() else _unchanging()


def once(what: Hashable, look: Callable[[], T]) -> T:
    """What ``look`` tells; within :func:`unchanging` what it told the first time for ``what``."""
    held = _held.get()
    if held is None:
        return look()
    if what not in held:
        held[what] = look()
    found: T = held[what]
    return found


@contextmanager
def _unchanging() -> Iterator[None]:
    token = _held.set({} if (held := _held.get()) is None else held)
    try:
        yield
    finally:
        _held.reset(token)


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """What named_parameters() and named_buffers() tell, in a fraction of their time."""
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    seen: set[int] = set()

    def visit(module: nn.Module, prefix: str) -> None:
        for kind, found in ((module._parameters, parameters), (module._buffers, buffers)):
            for name, tensor in kind.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[prefix + name] = tensor
        for name, child in module._modules.items():
            if child is not None:
                visit(child, f"{prefix}{name}.")

    visit(net, "")
    return parameters | buffers


class Fingerprint:
    """What tells the values of a network apart from others, kept up to date at little cost.

    Args:
        originals: of the parameters that are shared, by name.
    """

    def __init__(self, originals: dict[str, Original]) -> None:
        self._originals = originals
        self._known: dict[str, tuple[Hashable, str]] = {}

    def of(self, net: nn.Module) -> str:
        """The fingerprint as of now; within :func:`unchanging` as of the first time.

        A shared parameter is hashed again if something wrote to it, anything else if its checksum has changed (elsewhere
        than on a CPU: its version or place in memory).
        """
        return once(self, lambda: self._of(net))

    def _of(self, net: nn.Module) -> str:
        with _lock:
            lines = "\n".join(f"{name}:{self._digest(name, tensor)}" for name, tensor in _tensors(net).items())
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    def _digest(self, name: str, tensor: Tensor) -> str:
        original = self._originals.get(name)
        if original is None:
            mark = _mark(tensor)
            if name not in self._known or self._known[name][0] != mark:
                self._known[name] = mark, digest(tensor)
            return self._known[name][1]
        if not original.is_unchanged_in(tensor):
            if tensor.device.type != "cpu":
                del self._originals[name]
                return self._digest(name, tensor)
            self._originals[name] = original = Original(tensor)
        return original.digest


def _mark(tensor: Tensor) -> Hashable:
    place = (tensor.dtype, tuple(tensor.shape), tensor.device)
    if tensor.device.type != "cpu":
        version = None if tensor.is_inference() else tensor._version
        return (*place, id(tensor), version, None if tensor.is_meta else _address(tensor))
    values = tensor.detach().clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)  # bfloat16 too
    return (*place, zlib.crc32(values.numpy().tobytes()))

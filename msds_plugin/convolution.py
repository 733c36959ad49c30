"""A convolution with what follows it, in one pass over memory.

torch computes a convolution and then passes over its result once more for the activation; under autocast it rounds the weights
at every call. On a CPU, where gradients are off (``torch.no_grad``), oneDNN's kernel does both at once, and rounded weights are
kept. The kernel is the one that torch itself compiles to; it is tried out once per process, and not used where it does not give
what torch gives.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .sharing import Original

__all__ = ["Convolution"]

#: Positions of a map up to which torch's own convolution is as fast: bringing the weights into oneDNN's layout is most of it.
FEW_POSITIONS = 1 << 12

#: The activations that the kernel knows: its name for each, and its numbers.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


class Convolution(nn.Conv2d):
    """``activation(convolution(x))`` for a frozen convolution, whose parameters it takes over without a copy.

    Args:
        convolution: with zeros around the image, if anything.
        activation: of one of the types in :data:`ACTIVATIONS`.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(convolution))
        self.activation = activation
        self.originals: dict[str, Original] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, h, w) of maps (N, C', h', w'); in bfloat16 under autocast to it."""
        dtype = _kernel_type(x)
        if dtype is None or not self._is_original() or not _kernel_works(dtype):
            out: Tensor = self.activation(super().forward(x))
            return out
        weight, bias = (self._parameter(name, dtype) for name in ("weight", "bias"))
        geometry = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        return _convolve(x.to(dtype), weight, bias, geometry, *ACTIVATIONS[type(self.activation)])

    def _is_original(self) -> bool:
        parameters = ((name, value) for name, value in self._parameters.items() if value is not None)
        return all(name in self.originals and self.originals[name].is_unchanged_in(parameter) for name, parameter in parameters)

    def _parameter(self, name: str, dtype: torch.dtype) -> Tensor | None:
        value = self._parameters[name]
        return value if value is None or value.dtype is dtype else self.originals[name].bfloat16

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "originals": {}}


def _kernel_type(x: Tensor) -> torch.dtype | None:
    """In which type the kernel computes maps that are nothing but numbers on a CPU; None where more is asked of them.

    That is: gradients, transforms, compilers, counters of operations, another type. Where gradients may be wanted of one image
    of a pair, both go by torch: the kernel rounds in another order, and equal images are to have equal features.
    """
    if (
        type(x) is not Tensor
        or x.dim() != 4
        or x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    ):
        return None
    if torch.is_autocast_enabled("cpu"):
        lower = x.dtype in (torch.float32, torch.bfloat16) and torch.get_autocast_dtype("cpu") is torch.bfloat16
        return torch.bfloat16 if lower else None
    return torch.float32 if x.dtype is torch.float32 and x.numel() > FEW_POSITIONS * x.shape[1] else None


def _convolve(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, geometry: tuple[Any, ...], activation: str, numbers: list[float]
) -> Tensor:
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, activation, numbers, "")
    return out


@cache
def _kernel_works(dtype: torch.dtype) -> bool:
    """Whether this torch has the kernel, on a processor it was tried on, and it gives what torch gives."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    ramp = torch.arange(8 * 12 * 12, dtype=torch.float32).sin().to(dtype)
    x, bias = ramp.view(1, 8, 12, 12).contiguous(memory_format=torch.channels_last), ramp[:8].clone()
    try:
        if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        for groups, activation in ((1, nn.ReLU6()), (8, nn.ReLU())):
            weight, geometry = ramp[: 8 * 8 // groups * 9].view(8, 8 // groups, 3, 3), ([1, 1], [2, 2], [1, 1], groups)
            found = _convolve(x, weight, bias, geometry, *ACTIVATIONS[type(activation)])
            expected = activation(torch.conv2d(x, weight, bias, 2, 1, 1, groups))
            if found.dtype is not dtype or not torch.allclose(found, expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-5):
                return False
    except (RuntimeError, AttributeError, TypeError):
        return False
    return True

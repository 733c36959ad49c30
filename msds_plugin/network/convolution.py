"""A convolution with what follows it, in one pass over memory.

torch computes a convolution and then passes over its result once more for the activation, and again for the shortcut of a
residual block; at every call it brings the weights into oneDNN's layout, and under autocast rounds them. On a CPU, where
gradients are off (``torch.no_grad``), oneDNN's kernels do all of it at once. Rounded weights are kept, and those of 1 x 1
convolutions, which are matrix products, and of depthwise ones in oneDNN's layout: on small maps that is most of the time. The
layout of other weights depends on the image. The kernels are those that torch itself compiles to; they are tried out once per
process, and not used where they do not give what torch gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from .sharing import Original, once

__all__ = ["Convolution", "in_a_row"]

#: Positions of a map up to which torch's own convolution is as fast where the layout of the weights depends on the image.
FEW_POSITIONS = 1 << 12

#: The activations that the kernel knows: its name for each, and its numbers.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


#: Maps to maps; what is given second is added to them.
Kernel = Callable[..., Tensor]


class Convolution(nn.Conv2d):
    """``activation(convolution(x))``, plus a shortcut if given, for a frozen convolution, whose parameters it takes over.

    Args:
        convolution: with zeros around the image, if anything.
        activation: of one of the types in :data:`ACTIVATIONS`.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(convolution))
        self.activation = activation
        self.geometry = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        pointwise = (self.kernel_size, *self.geometry[:2], self.groups) == ((1, 1), [0, 0], [1, 1], 1)
        depthwise = self.groups == self.in_channels == self.out_channels > 1
        self.kind = "product" if pointwise else "depthwise" if depthwise else "other"
        self.share({})

    def share(self, originals: dict[str, Original]) -> None:
        """Parameters by these names are copies of these."""
        self.originals = originals
        self.kernels: dict[torch.dtype, Kernel] = {}

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Maps (N, C, h, w) of maps (N, C', h', w'); in bfloat16 under autocast to it.

        Args:
            x: as above.
            shortcut: what is added to the result, of its shape.
        """
        dtype = kernel_type(x)
        few = dtype is torch.float32 and self.kind == "other" and x.numel() <= FEW_POSITIONS * x.shape[1]
        kernel = None if dtype is None or few else self.kernel(dtype)
        if kernel is not None:
            return kernel(x, shortcut)
        out: Tensor = self.activation(super().forward(x))
        return out if shortcut is None else out + shortcut

    def kernel(self, dtype: torch.dtype) -> Kernel | None:
        """What computes it in this type; None where the parameters were changed, or torch has nothing that works."""
        if not once(self, self._is_unchanged):
            return None
        if dtype not in self.kernels and _kernels_work(dtype):
            self.kernels[dtype] = self._new_kernel(dtype)
        return self.kernels.get(dtype)

    def _is_unchanged(self) -> bool:
        """Whether its parameters have the values that were there when it was made."""
        return all(
            parameter is None or (name in self.originals and self.originals[name].is_unchanged_in(parameter))
            for name, parameter in self._parameters.items()
        )

    def _new_kernel(self, dtype: torch.dtype) -> Kernel:
        bias, (activation, numbers) = self._kept("bias", dtype), ACTIVATIONS[type(self.activation)]
        if self.kind == "product":
            return _product(self._kept("weight", dtype, _packed_matrix), bias, activation, numbers, dtype)
        if self.kind == "depthwise":
            weight = self._kept("weight", dtype, lambda weight: _packed(weight, self.geometry))
        else:
            weight = self.weight if self.weight.dtype is dtype else self._kept("weight", dtype)
        return _convolution(weight, bias, self.geometry, activation, numbers, dtype)

    def _kept(self, name: str, dtype: torch.dtype, arrange: Callable[[Tensor], Tensor] | None = None) -> Tensor | None:
        """A parameter in a type, and arranged in a layout, as it was made the first time.

        Never the parameter itself: to a kernel that may write, a copy-on-write gets memory of its own.
        """
        return None if self._parameters[name] is None else self.originals[name].kept(dtype, arrange)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "originals": {}, "kernels": {}}


def in_a_row(steps: Callable[[], Sequence[nn.Module]], of: nn.Module, x: Tensor, shortcut: Tensor | None) -> Tensor | None:
    """What the ``steps`` of a module compute one after the other, the last with the shortcut; None where they are to be called.

    Calls take as long as the arithmetic on small maps, so what they would look at is looked at once.
    """
    dtype = kernel_type(x)
    if dtype is None or _global_forward_hooks or _global_forward_pre_hooks:
        return None
    found = once((of, dtype), lambda: _kernels(steps(), dtype))
    if found is None or any(module._forward_hooks or module._forward_pre_hooks for module, _ in found):
        return None
    *first, (_, last) = found
    for _, kernel in first:
        x = kernel(x)
    return last(x, shortcut)


def _kernels(modules: Sequence[nn.Module], dtype: torch.dtype) -> list[tuple[Convolution, Kernel]] | None:
    """Of convolutions, with each its own; None where one has none, or is better called."""
    found = []
    for module in modules:
        if type(module) is not Convolution or module.kind == "other":
            return None
        kernel = module.kernel(dtype)
        if kernel is None:
            return None
        found.append((module, kernel))
    return found


def _product(weight: Tensor | None, bias: Tensor | None, activation: str, numbers: list[float], dtype: torch.dtype) -> Kernel:
    def run(x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if x.dtype is not dtype:
            x = x.to(dtype)
        rows = x.permute(0, 2, 3, 1)  # no copy of maps in channels_last
        if shortcut is not None and activation == "none" and shortcut.dtype is dtype:
            return _multiply_add(rows, shortcut.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
        out = _multiply(rows, weight, bias, activation, numbers).permute(0, 3, 1, 2)
        return out if shortcut is None else out + shortcut

    return run


def _convolution(
    weight: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[Any, ...],
    activation: str,
    numbers: list[float],
    dtype: torch.dtype,
) -> Kernel:
    def run(x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if x.dtype is not dtype:
            x = x.to(dtype)
        out = _convolve(x, weight, bias, geometry, activation, numbers)
        return out if shortcut is None else out + shortcut

    return run


def kernel_type(x: Tensor) -> torch.dtype | None:
    """In which type the kernel computes maps that are nothing but numbers on a CPU; None where more is asked of them.

    That is: gradients, transforms, compilers, counters of operations, another type. Where gradients may be wanted of one image
    of a pair, both go by torch: the kernel rounds in another order, and equal images are to have equal features.
    """
    if (
        type(x) is not Tensor
        or x.dim() != 4
        or not x.is_cpu
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
    return torch.float32 if x.dtype is torch.float32 else None


def _convolve(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, geometry: tuple[Any, ...], activation: str, numbers: list[float]
) -> Tensor:
    out: Tensor = torch.ops.mkldnn._convolution_pointwise.default(x, weight, bias, *geometry, activation, numbers, "")
    return out


def _multiply(rows: Tensor, weight: Tensor | None, bias: Tensor | None, activation: str, numbers: list[float]) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, weight, bias, activation, numbers, "")
    return out


def _multiply_add(rows: Tensor, other: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, other, weight, bias, "add")
    return out


def _packed(weight: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    out: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, None)
    return out


def _packed_matrix(weight: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1), None)
    return out


@cache
def _kernels_work(dtype: torch.dtype) -> bool:
    """Whether this torch has the kernels, on a processor they were tried on, and they give what torch gives."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    ramp = torch.arange(8 * 12 * 12, dtype=torch.float32).sin().to(dtype)
    x, bias = ramp.view(1, 8, 12, 12).contiguous(memory_format=torch.channels_last), ramp[:8].clone()
    rows, square, by_two = x.permute(0, 2, 3, 1), ramp[:64].view(8, 8, 1, 1), ([1, 1], [2, 2], [1, 1])
    try:
        if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        found = [
            _convolve(x, ramp[: 8 * 8 * 9].view(8, 8, 3, 3), bias, (*by_two, 1), *ACTIVATIONS[nn.ReLU6]),
            _convolve(x, _packed(ramp[: 8 * 9].view(8, 1, 3, 3), (*by_two, 8)), bias, (*by_two, 8), *ACTIVATIONS[nn.ReLU]),
            _multiply(rows, _packed_matrix(square), bias, *ACTIVATIONS[nn.ReLU6]),
            _multiply_add(rows, rows, _packed_matrix(square), bias),
        ]
    except (RuntimeError, AttributeError, TypeError):
        return False
    expected = [
        torch.conv2d(x, ramp[: 8 * 8 * 9].view(8, 8, 3, 3), bias, 2, 1).clamp(0, 6),
        torch.conv2d(x, ramp[: 8 * 9].view(8, 1, 3, 3), bias, 2, 1, 1, 8).relu(),
        torch.conv2d(x, square, bias).clamp(0, 6).permute(0, 2, 3, 1),
        (torch.conv2d(x, square, bias) + x).permute(0, 2, 3, 1),
    ]
    near = 4 * torch.finfo(dtype).eps
    close = partial(torch.allclose, rtol=near, atol=1e-5 if dtype is torch.float32 else near)
    return all(a.dtype is dtype and close(a, b) for a, b in zip(found, expected, strict=True))

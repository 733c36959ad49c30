"""The blocks of EfficientNet, without what timm's have for other networks and what does nothing here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .convolution import Convolution, in_a_row

__all__ = ["Residual"]


class Residual(nn.Module):
    """Modules one after the other, plus their input where that has the shape of the result.

    Args:
        modules: by the names of their parameters; the last that is no identity is a convolution once activations are joined.
        shortcut: whether the input is added.
    """

    def __init__(self, modules: Mapping[str, nn.Module], shortcut: bool) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.shortcut = shortcut

    @classmethod
    def of(cls, block: nn.Module) -> Residual:
        """Of one of timm's blocks, a depthwise separable one or an inverted residual."""
        parts = {name: part for name, part in block.named_children() if type(part) is not nn.Identity}
        return cls(parts, bool(block.has_skip))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, h, w) of maps (N, C', h', w')."""
        shortcut = x if self.shortcut else None
        at_once = in_a_row(self._steps, self, x, shortcut)
        if at_once is not None:
            return at_once
        *first, last = self._steps()
        out = x
        for module in first:
            out = module(out)
        if shortcut is None:
            return last(out)
        return last(out, x) if isinstance(last, Convolution) else last(out) + x

    def _steps(self) -> list[nn.Module]:
        return [module for module in self._modules.values() if module is not None and type(module) is not nn.Identity]

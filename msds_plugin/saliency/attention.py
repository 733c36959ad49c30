"""From an option of a metric to masks: named ways to make a saliency map, or a function of the caller's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from msds_plugin.checks import check_has_values, is_true
from msds_plugin.networks import Backbone
from msds_plugin.saliency.gbvs import gbvs
from msds_plugin.saliency.others import feature_energy, spectral_residual
from msds_plugin.saliency.resample import Enlarged, fitted, thumbnail
from msds_plugin.windows import Image, Windows

__all__ = ["METHODS", "Attention", "Mask", "Saliency", "keep", "saliency_maps"]

#: What ``saliency=`` can name: functions of images and a metric's backbone to small maps.
METHODS: dict[str, Callable[[Tensor, Backbone], Tensor]] = {
    "gbvs": lambda image, _: gbvs(image),
    "spectral": lambda image, _: spectral_residual(image),
    "features": feature_energy,
}
#: Longer side in pixels of the image that they look at: of one read in windows no more than this is held.
LOOK = 512

Saliency = Literal["gbvs", "spectral", "features"] | Callable[[Tensor], Tensor] | None

_EMPTY = (
    "the saliency map is nowhere above the threshold of {:g}, so nothing of the image is left to compare: "
    "lower saliency_threshold, or give a map that is not zero everywhere"
)


def _finite(maps: Tensor) -> Tensor:
    """The maps themselves.

    Raises:
        ValueError: they hold NaN or infinite values.
    """
    if not is_true(maps.isfinite().all()):
        raise ValueError("the saliency map holds NaN or infinite values: it must be finite, of values in [0, 1] by custom")
    return maps


def keep(maps: Tensor, threshold: float) -> Tensor:
    """True where a map (N, 1, H, W) is above the threshold.

    Raises:
        ValueError: of some image nothing is, so that nothing of it would be compared; or the map is not finite.
    """
    kept = _finite(maps) > threshold
    if not is_true(kept.flatten(1).any(1).all()):
        raise ValueError(_EMPTY.format(threshold))
    return kept


def saliency_maps(saliency: Image, image: Image) -> Image:
    """Maps (N, 1, H, W), or a tensor (N, H, W), of any type, as (N, 1, H, W); tensors of the images' type and device.

    Raises:
        TypeError: neither a tensor nor read in windows.
        ValueError: another shape than that of the images (N, C, H, W).
    """
    if not isinstance(saliency, Tensor) and not isinstance(saliency, Windows):
        raise TypeError(f"the saliency map must be a torch.Tensor (N, 1, H, W) or (N, H, W), got {type(saliency).__name__}")
    maps = saliency.unsqueeze(1) if isinstance(saliency, Tensor) and saliency.dim() == 3 else saliency
    if tuple(maps.shape) != (image.shape[0], 1, *image.shape[-2:]):
        raise ValueError(
            f"the saliency map of images {tuple(image.shape)} must have shape (N, 1, H, W) or (N, H, W) of the same size, "
            f"got {tuple(saliency.shape)}"
        )
    if not isinstance(maps, Tensor):
        return maps
    check_has_values(maps, "the saliency map")
    return maps.to(image) if isinstance(image, Tensor) else maps.to(torch.get_default_dtype())


class Mask:
    """True where a saliency map that is read in windows is above the threshold."""

    def __init__(self, maps: Windows, threshold: float) -> None:
        self.maps, self.threshold = maps, threshold
        self._seen: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 1, H, W)."""
        return self.maps.shape

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """See :class:`~msds_plugin.windows.Windows`."""
        kept = _finite(self.maps.read(top, left, height, width)) > self.threshold
        some = kept.flatten(1).any(1)
        self._seen = some if self._seen is None else self._seen | some
        return kept

    def check(self) -> None:
        """Raise a ValueError if, after all windows have been read, an image has nothing above the threshold."""
        if self._seen is None or not is_true(self._seen.all()):
            raise ValueError(_EMPTY.format(self.threshold))


@dataclass(frozen=True)
class Attention:
    """How a metric makes the saliency maps that it is not given.

    Attributes:
        method: a name of :data:`METHODS`, or a function of images (N, 3, H, W) in [0, 1] to maps (N, 1, H, W) or (N, H, W).

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a function.
    """

    method: str | Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if isinstance(self.method, str) and self.method not in METHODS:
            raise ValueError(f"unknown saliency {self.method!r}: choose from {', '.join(METHODS)}, or give a function")
        if not isinstance(self.method, str) and not callable(self.method):
            raise TypeError(
                f"saliency must be one of {', '.join(METHODS)}, or a function of images, got {type(self.method).__name__}; "
                "a map is given with the images: metric(x, y, saliency_x, saliency_y)"
            )

    @property
    def name(self) -> str:
        """Tells apart what made the maps of two representations; of a function, its module and name."""
        if isinstance(self.method, str):
            return self.method
        named = self.method if hasattr(self.method, "__qualname__") else type(self.method)
        return f"{named.__module__}.{named.__qualname__}"

    def maps(self, image: Image, backbone: Backbone) -> Image:
        """Saliency maps of images (N, 3, H, W): (N, 1, H, W), detached; read in windows if the image is.

        Raises:
            ValueError: the function returned something else than finite maps of the images' size.
            TypeError: a function is to look at an image that is read in windows.
        """
        if callable(self.method):
            return self._own(image)
        height, width = image.shape[-2:]
        small = thumbnail(image, fitted(height, width, LOOK)).to(device=backbone.device, dtype=backbone.dtype)
        enlarged = Enlarged(METHODS[self.method](small, backbone), (height, width))
        return enlarged.read(0, 0, height, width).to(image) if isinstance(image, Tensor) else enlarged

    def _own(self, image: Image) -> Tensor:
        assert callable(self.method)
        if not isinstance(image, Tensor):
            raise TypeError(
                "a saliency function needs whole images as tensors; for images read in windows give a name or a map"
            )
        with torch.no_grad():
            maps = self.method(image.detach())
        if not isinstance(maps, Tensor):
            raise ValueError(f"the saliency function {self.name} must return a torch.Tensor, got {type(maps).__name__}")
        wanted = {(len(image), 1, *image.shape[-2:]), (len(image), *image.shape[-2:])}
        if tuple(maps.shape) not in wanted or maps.is_complex():
            raise ValueError(
                f"the saliency function {self.name} must return maps (N, 1, H, W) or (N, H, W) of the images "
                f"{tuple(image.shape)}, got {tuple(maps.shape)} of {maps.dtype}"
            )
        return _finite(maps.detach().reshape(len(image), 1, *image.shape[-2:]).to(image))

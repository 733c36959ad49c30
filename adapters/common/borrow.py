"""VGG16 weights out of a live metric of a toolkit, so that metrics used side by side keep one VGG16 in memory."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor, nn

# (position in torchvision's vgg16.features, input channels, output channels)
_VGG16 = (
    (0, 3, 64),
    (2, 64, 64),
    (5, 64, 128),
    (7, 128, 128),
    (10, 128, 256),
    (12, 256, 256),
    (14, 256, 256),
    (17, 256, 512),
    (19, 512, 512),
    (21, 512, 512),
    (24, 512, 512),
    (26, 512, 512),
    (28, 512, 512),
)


def vgg16_weights(metric: nn.Module) -> dict[str, Tensor]:
    """The very weight tensors of the VGG16 inside ``metric``, by torchvision's names.

    Args:
        metric: pyiqa's ``lpips-vgg`` or ``dists``, piq's ``LPIPS`` or ``DISTS``, or any module with VGG16's convolutions.

    Raises:
        ValueError: there is no VGG16 in it.
    """
    convolutions = [m for m in metric.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    if [(m.in_channels, m.out_channels) for m in convolutions] != [row[1:] for row in _VGG16]:
        raise ValueError(
            f"{type(metric).__name__} holds no VGG16 whose weights could be used: give pyiqa's lpips-vgg or dists, "
            "piq's LPIPS or DISTS, or the name of a backbone"
        )
    weights: dict[str, Tensor] = {}
    for (index, *_), convolution in zip(_VGG16, convolutions, strict=True):
        weights[f"{index}.weight"] = convolution.weight
        if convolution.bias is not None:
            weights[f"{index}.bias"] = convolution.bias
    return weights


def is_toolkit_metric(module: object) -> TypeGuard[nn.Module]:
    """Whether this is a metric of pyiqa or piq (and not a feature network of the caller's own)."""
    return isinstance(module, nn.Module) and type(module).__module__.partition(".")[0] in ("pyiqa", "piq")


class Lent:
    """A live metric that lends its weights. Copies of this handle lend those of the very same metric."""

    def __init__(self, metric: nn.Module) -> None:
        self.metric = metric

    def __deepcopy__(self, memo: dict[int, Any]) -> Lent:
        return self


def lend(metric: nn.Module) -> Lent:
    """The backbone that takes the memory of a live metric's VGG16: ``pyiqa.create_metric("msds", backbone=lend(lpips))``.

    pyiqa deep-copies what it is given as an option. ``backbone=lpips`` itself therefore has the same values, but memory of
    its own; piq copies nothing. On a CPU the memory is in common until either metric is changed, which the other never sees.

    Args:
        metric: pyiqa's ``lpips-vgg`` or ``dists``, piq's ``LPIPS`` or ``DISTS``, or any module with VGG16's convolutions.

    Raises:
        ValueError: there is no VGG16 in it.
    """
    vgg16_weights(metric)
    return Lent(metric)


def with_borrowed_weights(options: dict[str, Any]) -> dict[str, Any]:
    """Options in which ``backbone=<live toolkit metric>`` has become VGG16 with that metric's weights."""
    donor = options.get("backbone")
    if isinstance(donor, Lent):
        donor = donor.metric
    elif not is_toolkit_metric(donor):
        return options
    if options.get("weights", "imagenet") != "imagenet":
        raise ValueError("backbone=<a live metric> brings its own weights: do not pass weights as well")
    return {**options, "backbone": "vgg16", "weights": vgg16_weights(donor)}

"""Metrics between this package and the toolkits: theirs as one of ours, ours inside a module of theirs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from msds_plugin import registry
from msds_plugin.backbones import vgg16_around
from msds_plugin.checks import HALF, RANGE_TOLERANCE, check_pair, check_range, value_range
from msds_plugin.metric import Metric
from msds_plugin.msds import CallableMetric, PyramidMetric, scores_of
from msds_plugin.windows import Image

__all__ = ["Held", "ToolkitMetric", "create", "lend", "score_each", "variant"]

#: Prefix of pyiqa's metrics on a pyramid.
MULTISCALE_PREFIX = "ms-"
#: How far outside [0, 1] the prediction of a network in training may lie; images in [0, 255] lie further.
OVERSHOOT = 3.0


def on_a_pyramid(name: str) -> bool:
    """Whether the metric of this name takes ``levels`` and ``fusion``."""
    return name.startswith(MULTISCALE_PREFIX) or (name in registry.names() and registry.get(name).multiscale)


def score_each(metric: Callable[[Tensor, Tensor], Any], x: Tensor, y: Tensor, singly: bool = False) -> Tensor:
    """Scores (N,) of distorted images ``x`` beside references ``y``, (N, C, H, W), also of a metric that averages.

    A metric that returns one value for several images is called once for each image, and so is one whose scores depend on the
    rest of the batch (``singly``). Of a tuple the first value is taken, as pyiqa does for a loss.

    Raises:
        ValueError: the metric returns something else than one score for each image.
    """
    if singly and len(x) > 1:
        return torch.cat([score_each(metric, *pair) for pair in zip(x.split(1), y.split(1), strict=True)])
    output = metric(x, y)
    scores = output[0] if isinstance(output, tuple) else output
    if isinstance(scores, Tensor) and scores.numel() == 1 and len(x) > 1:
        return score_each(metric, x, y, singly=True)
    return scores_of(scores, len(x)).reshape(-1)


def variant(name: str, options: dict[str, Any]) -> str:
    """The name of a metric with its options: ``lpips(net=squeeze)``."""
    shown = [
        f"{key}={value if isinstance(value, str | float | int | None) else type(value).__name__}"
        for key, value in sorted(options.items())
    ]
    return f"{name}({', '.join(shown)})" if shown else name


class ToolkitMetric(CallableMetric):
    """A metric of a toolkit as one of ours: one score for each image, in a known direction.

    It is called with (x, y), or with x alone where it is not full-reference; ``singly``: see :func:`score_each`.
    """

    def __init__(
        self,
        metric: Callable[..., Any],
        name: str,
        lower_is_better: bool = False,
        full_reference: bool = True,
        singly: bool = False,
    ) -> None:
        super().__init__(metric, name)
        self.lower_is_better = lower_is_better
        self.full_reference = full_reference
        self.singly = singly

    def weighted_modules(self) -> list[nn.Module]:
        """Itself, and the metrics that its modules hold outside of their tree."""
        held = [value.metric for module in self.modules() for value in vars(module).values() if isinstance(value, Held)]
        return [self, *(module for metric in held for module in metric.weighted_modules())]

    def _score(self, x: Image, y: Image) -> Tensor:
        metric = self.metric if self.full_reference else lambda x, _: self.metric(x)  # type: ignore[call-arg]
        return score_each(metric, x, y, self.singly)  # type: ignore[arg-type]


def create(name: str, **options: Any) -> Metric:
    """The registered metric of this name; ``backbone`` may be a live metric of a toolkit that holds a VGG16.

    A metric of a user is tried on two small images when it is made, to find a wrong entry early.

    Raises:
        KeyError: no such metric.
        ValueError: the metric returns a mean over the batch, or its entry states the wrong direction; and what it raises.
    """
    row = registry.get(name)
    metric = row.factory(**_around_live_vgg16(options))
    if not registry.get(name).built_in:
        _check_scores(row, metric)
    return metric if isinstance(metric, Metric) else ToolkitMetric(metric, variant(name, options), row.lower_is_better)


def _check_scores(row: registry.Metric, metric: nn.Module) -> None:
    ramp = torch.linspace(0.2, 0.8, 128)
    reference = torch.stack([ramp.outer(ramp), ramp.outer(1 - ramp)]).unsqueeze(1).repeat(1, 3, 1, 1)
    distorted = reference.clone()
    distorted[..., ::2, 1::3] = 1 - distorted[..., ::2, 1::3]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            same, worse = (metric(image, reference) for image in (reference, distorted))
    except Exception:  # it may need other images: what it says of the caller's own matters
        return
    if not isinstance(same, Tensor) or same.numel() != 2:
        found = f"shape {tuple(same.shape)}" if isinstance(same, Tensor) else type(same).__name__
        raise ValueError(
            f"{row.name!r} returned {found} for 2 images: it must return one score for each image, shape (N,); average over "
            "the dimensions of an image only, for example .mean((1, 2, 3))"
        )
    low, high = (worse, same) if row.lower_is_better else (same, worse)
    if bool((low < high).all()):
        raise ValueError(
            f"{row.name!r} is registered with lower_is_better={row.lower_is_better}, but scores identical images "
            f"{same.flatten()[0]:.4g} and distorted ones {worse.flatten()[0]:.4g}: "
            f"state lower_is_better={not row.lower_is_better}"
        )


class Held:
    """A registered metric inside a module of a toolkit, but outside of its tree of modules.

    Its weights are therefore in no ``state_dict()``, ``parameters()``, checkpoint or optimiser, and nothing unfreezes them.
    It follows its input to another device and type: its weights are then replaced, never changed in place, since another
    thread or a backward pass that is still to come may need the old ones. Pickles and copies bring the weights along.

    Attributes:
        metric: the metric itself.
        lower_is_better: as it is registered.
        trained: with ``learn_fusion=True`` the parameter that the module which holds this registers as ``fusion_logits``.
    """

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        with torch.inference_mode(False):  # what is made in inference mode gives no gradients later
            self.metric = create(name, **options).eval()
        self.trained = self.metric.fusion_logits if isinstance(self.metric, PyramidMetric) else None
        self.lower_is_better = registry.get(name).lower_is_better
        if not registry.get(name).built_in:  # ours are frozen
            self.metric.requires_grad_(False)

    def __call__(self, x: Tensor, y: Tensor, trained: Tensor | None = None, training: bool = False, **options: Any) -> Tensor:
        """Scores (N,) of distorted images ``x`` beside references ``y``.

        Grey images are taken as RGB. Half precision, as of autocast, is compared in float32, and so may stand beside it.

        Args:
            x, y: (N, 3 or 1, H, W), values in [0, 1]. An ``x`` that requires gradients may leave that range by
                :data:`OVERSHOOT`, as the output of a network in training does.
            trained: the module's ``fusion_logits`` now: a loaded state may have put another parameter in place, a
                parametrisation, ``functional_call`` or FSDP a tensor that is no parameter.
            training: the same for an ``x`` that requires none, as in the validation of a loss.
            options: further arguments of the metric.

        Raises:
            TypeError: not tensors, or not of a floating-point type.
            ValueError: another shape, different devices, values out of range, and what the metric itself refuses.
        """
        x, y = (_as_rgb(image) for image in (x, y))
        predicted = training and _overshoots(x)
        # The checks and the metrics let only images that require gradients leave [0, 1].
        x = x.detach().requires_grad_() if predicted else x
        check_pair(x, y)
        check_range(x, "the distorted image x", OVERSHOOT if x.requires_grad else RANGE_TOLERANCE)
        check_range(y, "the reference image y")
        dtype = torch.promote_types(x.dtype, y.dtype)
        dtype = torch.float32 if dtype in HALF else dtype
        if isinstance(trained, nn.Parameter):
            self.metric.fusion_logits = trained
            trained = None
        metric, pair = self._like(x.device, dtype), (x.to(dtype), y.to(dtype))
        if trained is None:
            scores: Tensor = metric(*pair, **options)
        else:
            scores = functional_call(metric, {"fusion_logits": trained}, pair, options)
        return scores.detach() if predicted and self.trained is None else scores

    def _like(self, device: torch.device, dtype: torch.dtype) -> Metric:
        """The metric on this device and in this type."""
        metric = self.metric
        place = next((tensor for tensor in chain(metric.parameters(), metric.buffers()) if _moves(tensor)), None)
        if place is None or (place.device, place.dtype) == (device, dtype):
            return metric
        with torch.inference_mode(False):
            # The copy has the very parameters that are trained, since their optimiser knows them.
            metric = deepcopy(metric, {id(value): value for value in metric.parameters() if value.requires_grad})
            for module in metric.modules():
                for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                    if _moves(value):
                        moved = value.to(device, dtype)
                        setattr(module, name, nn.Parameter(moved, False) if isinstance(value, nn.Parameter) else moved)
        self.metric = metric
        return metric


def _moves(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.requires_grad


def _overshoots(image: Tensor) -> bool:
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.requires_grad:
        return False
    found = value_range(image)
    return found is not None and (found[0] < -RANGE_TOLERANCE or found[1] > 1 + RANGE_TOLERANCE)


def _as_rgb(image: Tensor) -> Tensor:
    return image.expand(-1, 3, -1, -1) if isinstance(image, Tensor) and image.dim() == 4 and image.shape[1] == 1 else image


class Lent:
    """A live metric that lends its network; copies of this handle lend that of the very same metric."""

    def __init__(self, metric: nn.Module) -> None:
        self.metric = metric

    def __deepcopy__(self, memo: dict[int, Any]) -> Lent:
        return self


def lend(metric: nn.Module) -> Lent:
    """The backbone that is a live metric's VGG16: ``pyiqa.create_metric("msds", backbone=lend(lpips))``.

    pyiqa deep-copies what it is given as an option, so that ``backbone=lpips`` itself has the same values in memory of its own.
    With ``lend``, and in piq, both metrics have the very same convolutions: those of pyiqa's ``lpips-vgg`` or ``dists``, piq's
    ``LPIPS`` or ``DISTS``, or any module with a VGG16. One without is a ValueError.
    """
    vgg16_convolutions(metric)
    return Lent(metric)


#: Channels of VGG16's convolutions: the input's, and what each puts out.
_VGG16 = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def vgg16_convolutions(metric: nn.Module) -> list[nn.Conv2d]:
    """The 13 convolutions of the VGG16 inside ``metric``, in order; a ValueError if there is none in it."""
    found = [module for module in metric.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]
    if [(module.in_channels, module.out_channels) for module in found] != list(pairwise(_VGG16)):
        raise ValueError(
            f"{type(metric).__name__} holds no VGG16 that could be used: give pyiqa's lpips-vgg or dists, piq's LPIPS or "
            "DISTS, or the name of a backbone"
        )
    return found


def _around_live_vgg16(options: dict[str, Any]) -> dict[str, Any]:
    """Options in which ``backbone=<live metric of a toolkit>`` has become a backbone around its convolutions."""
    given = options.get("backbone")
    donor = given.metric if isinstance(given, Lent) else given
    if not isinstance(donor, nn.Module):
        return options
    if donor is given and type(donor).__module__.partition(".")[0] not in ("pyiqa", "piq"):
        return options  # a network of the user
    if options.get("weights", "imagenet") != "imagenet":
        raise ValueError("backbone=<a live metric> brings its own weights: do not pass weights as well")
    others = {key: value for key, value in options.items() if key not in ("weights", "layers")}
    return {**others, "backbone": vgg16_around(vgg16_convolutions(donor), options.get("layers"))}

"""The registered metrics as ``torchmetrics.Metric``, and any full-reference metric of pyiqa and piq by its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from msds_plugin import registry
from msds_plugin.adapters.scorers import Scorer, create_scorer, is_registered, parse_metric
from msds_plugin.adapters.wrap import Held
from msds_plugin.checks import value_range

Reduction = Literal["mean", "none"]

_OPTIONS_OF_TORCHMETRICS = {
    "compute_on_cpu",
    "compute_with_cache",
    "dist_sync_fn",
    "dist_sync_on_step",
    "distributed_available_fn",
    "process_group",
    "sync_on_compute",
}


class _OfToolkit:
    """A metric of pyiqa or piq. It is made again where its input is, and in each process: not all of them can be pickled."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options, self.trained = name, options, None
        self.scorer: Scorer | None = create_scorer(name, "cpu", **options)
        self.lower_is_better = self.scorer.lower_is_better

    def __call__(self, x: Tensor, y: Tensor, trained: None) -> Tensor:
        if self.scorer is None or self.scorer.device != x.device:
            self.scorer = create_scorer(self.name, x.device, **self.options)
        scores: Tensor = self.scorer.metric(x, y)
        return scores

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "scorer": None}


class FullReference(Metric):
    """Any full-reference metric by name, accumulated over batches and processes.

    Args:
        name: as for ``msds score``: one of ours, of ``pyiqa.list_models()``, or ``piq:`` and piq's name.
        reduction: ``"mean"`` over all images, or ``"none"`` for all scores (N,).
        options: those of the metric, and of :class:`torchmetrics.Metric` (``sync_on_compute``, ``dist_sync_on_step``, ...).

    Shape:
        preds, target: distorted images and references, (N, 3 or 1, H, W) in [0, 1], of any floating-point type; they are
        compared in float32. ``preds`` that require gradients may leave that range by 3. The gradient of what ``forward``
        returns flows to ``preds`` if the metric is one of ours; what is accumulated keeps no graph.

    Raises:
        TypeError: images that are not of a floating-point type.
        ValueError: no such metric (names the nearest), or another reduction; and what the metric itself refuses.

    Example:
        >>> metric = FullReference("msds", backbone="alexnet", weights=None, levels=1)
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric.update(x, x)
        >>> metric.compute()
        tensor(1.)
    """

    full_state_update = False
    fusion_logits: Tensor | None
    total: Tensor
    count: Tensor
    scores: list[Tensor]

    def __init__(self, name: str, reduction: Reduction = "mean", **options: Any) -> None:
        super().__init__(**{key: options.pop(key) for key in _OPTIONS_OF_TORCHMETRICS & options.keys()})
        self.name = name
        self.reduction = _check_reduction(reduction)
        self._metric = _make(name, options)
        self.register_parameter("fusion_logits", self._metric.trained)
        # MetricCollection takes metrics whose states agree after the first batch for one and the same. NaN agrees with nothing.
        self.add_state("distinct", default=torch.tensor(nan), dist_reduce_fx="sum")
        if reduction == "none":
            self.add_state("scores", default=[], dist_reduce_fx="cat")
            return
        # In float64, so that the order of batches and processes does not show in the mean.
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Direction of the score."""
        return not self._metric.lower_is_better

    @property
    def is_differentiable(self) -> bool:  # type: ignore[override]
        """Whether ``forward`` gives a gradient: ours do, those of the toolkits are made for measuring."""
        return isinstance(self._metric, Held)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the scores of a batch."""
        if isinstance(preds, Tensor) and preds.numel() and value_range(preds) is None and not torch.compiler.is_compiling():
            raise ValueError(
                f"{type(self).__name__} accumulates its scores, which torch.func.vmap cannot: take the metric itself, "
                "msds_plugin.registry.create(name)"
            )
        scores = _scores(self._metric, preds, target, self.fusion_logits)
        if self.reduction == "none":
            self.scores.append(scores)
            return
        self.total = self.total.double() + scores.double().sum()
        self.count = self.count.long() + len(scores)

    def compute(self) -> Tensor:
        """The mean of all scores so far, a scalar; or all of them, (N,)."""
        if self.reduction == "none":
            return dim_zero_cat(self.scores)
        return (self.total / self.count).float()

    def forward(self, preds: Tensor, target: Tensor) -> Tensor:
        """The value of this batch alone, with its gradient; the batch is added as by ``update``."""
        before = {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}
        try:
            value: Tensor = super().forward(preds, target)
        except Exception:
            vars(self).update(before)  # torchmetrics has put aside what was accumulated
            raise
        self._forward_cache = value.detach()  # type: ignore[assignment]  # a value with its graph cannot be deep-copied
        if self.reduction == "none":
            self.scores = [scores.detach() for scores in self.scores]
        else:
            self.total = self.total.detach()  # or every step's graph would be kept
        return value

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one value, or several as a line, with torchmetrics' own picture; see :meth:`torchmetrics.Metric.plot`."""
        return self._plot(val, ax)


def _check_reduction(reduction: Reduction) -> Reduction:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    return reduction


def _make(text: str, options: dict[str, Any]) -> Held | _OfToolkit:
    name, stated = parse_metric(text)
    return Held(name, {**options, **stated}) if is_registered(name) else _OfToolkit(text, options)


def _scores(metric: Held | _OfToolkit, preds: Tensor, target: Tensor, trained: Any = None) -> Tensor:
    for name, image in (("preds", preds), ("target", target)):
        if not isinstance(image, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor (N, 3 or 1, H, W), got {type(image).__name__}")
        if not image.is_floating_point():
            raise TypeError(f"{name} must hold floating-point values in [0, 1], got {image.dtype}: convert and divide by 255")
    return metric(preds.float(), target.float(), trained).float()


def full_reference(preds: Tensor, target: Tensor, name: str, reduction: Reduction = "mean", **options: Any) -> Tensor:
    """What :class:`FullReference` of this name gives for one batch: a scalar, or (N,) without reduction.

    The metric is built anew at each call; in a loop use the class.

    Example:
        >>> x = torch.rand(2, 3, 64, 64)
        >>> full_reference(x, x, "deepssim", "none", backbone="alexnet", weights=None)
        tensor([1., 1.])
    """
    _check_reduction(reduction)
    scores = _scores(_make(name, options), preds, target)
    return scores.double().mean().float() if reduction == "mean" else scores


class Registered(FullReference):
    """A registered metric; its subclasses say which. Arguments, shapes and errors are those of :class:`FullReference`."""

    metric_name: ClassVar[str]

    def __init__(self, reduction: Reduction = "mean", **options: Any) -> None:
        super().__init__(self.metric_name, reduction, **options)


if TYPE_CHECKING:  # classes and functions are made from the registry below

    def __getattr__(name: str) -> Any: ...


def _add(row: registry.Metric) -> None:
    if getattr(globals().get(row.class_name), "metric_name", None) == row.name:
        return  # registered again: both look the name up
    better = "lower" if row.lower_is_better else "higher"
    bounds = {"plot_lower_bound" if row.lower_is_better else "plot_upper_bound": row.best} if isfinite(row.best) else {}
    documentation = f"{row.title}, {better} is better: {row.summary}; see FullReference."
    attributes = {"metric_name": row.name, "__doc__": documentation, "__module__": __name__, **bounds}

    def function(preds: Tensor, target: Tensor, reduction: Reduction = "mean", **options: Any) -> Tensor:
        return full_reference(preds, target, row.name, reduction, **options)

    function.__name__ = function.__qualname__ = row.function_name
    function.__doc__ = f"{row.title} of one batch, {better} is better."
    values: list[Callable[..., Any]] = [function, type(row.class_name, (Registered,), attributes)]
    for value in values:
        if globals().setdefault(value.__name__, value) is not value:
            message = (
                f"{__name__} has {value.__name__!r} already: it is left alone, and that of {row.name!r} is not added there"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=3)


registry.subscribe(_add)

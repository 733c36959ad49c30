"""Metrics that accumulate: ``update``, ``compute``, ``forward``, ``reset``."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from .held import Held

__all__ = [
    "MSDS",
    "DeepSSIM",
    "DeepSSIMFast",
    "DeepSSIMLite",
    "DeepSSIMLiteFast",
    "FullReference",
    "MSDSAlign",
    "MSDSFast",
    "MSDSHybrid",
    "MSDSLite",
    "MSDSLiteFast",
    "MSDSRetarget",
]


class FullReference(Metric):
    """Any full-reference metric by name, accumulated over batches and processes.

    Args:
        name: as for ``msds score``: one of ours, of ``pyiqa.list_models()``, or ``piq:`` and piq's name.
        reduction: ``"mean"`` over all images, or ``"none"`` for all scores (N,).
        options: those of the metric, and of :class:`torchmetrics.Metric` (``sync_on_compute``, ``dist_sync_on_step``, ...).

    Shape:
        preds, target: distorted images and references, (N, 3, H, W) in [0, 1], of any floating-point type. The gradient of
        what ``forward`` returns flows to ``preds`` if the metric is one of ours; what is accumulated keeps no graph.

    Raises:
        ValueError: no such metric (names the nearest), or another reduction; and what the metric itself refuses.

    Example:
        >>> metric = FullReference("msds", backbone="alexnet", weights=None, levels=1)
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric.update(x, x)
        >>> metric.compute()
        tensor(1.)
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    scores: list[Tensor]

    def __init__(self, name: str, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
        known = {key: options.pop(key) for key in _OF_TORCHMETRICS & options.keys()}
        super().__init__(**known)
        self.reduction = reduction
        self._held = Held(name, options)
        if reduction == "none":
            self.add_state("scores", default=[], dist_reduce_fx="cat")
            return
        # In float64, so that the order of batches and processes does not show in the mean.
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def name(self) -> str:
        """The metric's name."""
        return self._held.name

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Direction of the score."""
        return not self._held.lower_is_better

    @property
    def is_differentiable(self) -> bool:  # type: ignore[override]
        """Whether ``forward`` gives a gradient: ours do, those of the toolkits are made for measuring."""
        return self._held.ours

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the scores of a batch."""
        scores = self._held(preds, target)
        if self.reduction == "none":
            self.scores.append(scores)
            return
        self.total = self.total.double() + scores.double().sum()
        self.count = self.count + len(scores)

    def compute(self) -> Tensor:
        """The mean of all scores so far, a scalar; or all of them, (N,)."""
        if self.reduction == "none":
            return dim_zero_cat(self.scores)
        return (self.total / self.count).float()

    def forward(self, preds: Tensor, target: Tensor) -> Tensor:
        """The value of this batch alone, with its gradient; the batch is added as by ``update``."""
        value: Tensor = super().forward(preds, target)
        if self.reduction == "none":
            self.scores = [scores.detach() for scores in self.scores]
        else:
            self.total = self.total.detach()  # or every step's graph would be kept
        return value

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one value, or several as a line, with torchmetrics' own picture; see :meth:`torchmetrics.Metric.plot`."""
        return self._plot(val, ax)


_OF_TORCHMETRICS = {
    "compute_on_cpu",
    "compute_with_cache",
    "dist_sync_fn",
    "dist_sync_on_step",
    "distributed_available_fn",
    "process_group",
    "sync_on_compute",
}


class DeepSSIM(FullReference):
    """DeepSSIM, higher is better; see :class:`msds_plugin.DeepSSIM` for its options."""

    plot_upper_bound = 1.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("deepssim", reduction, **options)


class DeepSSIMLite(FullReference):
    """DeepSSIM-Lite, lower is better; see :class:`msds_plugin.DeepSSIMLite` for its options."""

    plot_lower_bound = 0.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("deepssim-lite", reduction, **options)


class DeepSSIMFast(FullReference):
    """DeepSSIM on EfficientNet-Lite0, higher is better."""

    plot_upper_bound = 1.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("deepssim-fast", reduction, **options)


class DeepSSIMLiteFast(FullReference):
    """DeepSSIM-Lite on EfficientNet-Lite0, lower is better: a training loss."""

    plot_lower_bound = 0.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("deepssim-lite-fast", reduction, **options)


class MSDS(FullReference):
    """MSDS, higher is better; see :class:`msds_plugin.MSDS` for its options."""

    plot_upper_bound = 1.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("msds", reduction, **options)


class MSDSLite(FullReference):
    """MSDS-Lite, lower is better: a training loss."""

    plot_lower_bound = 0.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("msds-lite", reduction, **options)


class MSDSFast(FullReference):
    """MSDS on EfficientNet-Lite0, higher is better."""

    plot_upper_bound = 1.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("msds-fast", reduction, **options)


class MSDSLiteFast(FullReference):
    """MSDS-Lite on EfficientNet-Lite0, lower is better: a training loss."""

    plot_lower_bound = 0.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("msds-lite-fast", reduction, **options)


class MSDSHybrid(FullReference):
    """MSDS, HaarPSI and MDSI in one score for aligned pairs, higher is better."""

    plot_upper_bound = 1.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("msds-hybrid", reduction, **options)


class MSDSAlign(FullReference):
    """For displaced content, higher is better; see :class:`msds_plugin.MSDSAlign`."""

    plot_upper_bound = 1.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("msds-align", reduction, **options)


class MSDSRetarget(FullReference):
    """For retargeting and cropping, higher is better; see :class:`msds_plugin.MSDSRetarget`."""

    plot_upper_bound = 1.0

    def __init__(self, reduction: Literal["mean", "none"] = "mean", **options: Any) -> None:
        super().__init__("msds-retarget", reduction, **options)

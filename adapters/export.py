"""A metric as an ONNX file, for programs without torch: two images of any size to their score."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring.files import check_file, replace_file
from msds_plugin.encoder import MatrixMetric
from msds_plugin.errors import MissingDependencyError
from msds_plugin.metric import Metric

__all__ = ["export"]

#: What onnxruntime may differ by from torch.
TOLERANCE = 1e-5
#: For messages.
EXPORTABLE = "deepssim, msds, their -lite and -fast forms, msds-align"
#: Sides of the pairs that the file is checked with, beside the smallest: odd ones, different ones, large ones.
SIDES = (((97, 131), (97, 131)), ((160, 133), (129, 200)), ((384, 512), (384, 512)))


class _Pair(nn.Module):
    """Scores (1,) of one distorted image beside one reference, without the checks of values, which no graph can hold."""

    def __init__(self, metric: MatrixMetric) -> None:
        super().__init__()
        self.metric = metric

    def forward(self, distorted: Tensor, reference: Tensor) -> Tensor:
        made = [self.metric.of_matrices(self.metric.network(image)) for image in (distorted, reference)]
        return self.metric.compare(*made)


def export(metric: str, path: str | os.PathLike[str]) -> Path:
    """Write a metric to an ONNX file, once onnxruntime gives its scores to 1e-5 on pairs of several sizes.

    Inputs ``distorted`` and ``reference``, float32 (1, 3, H, W), RGB in [0, 1]; their sizes may differ. Output ``score``,
    float32 (1,). The file checks neither values nor the smallest size.

    Args:
        metric: one that compares matrices of features (deepssim, msds, msds-align and their other forms), with options after
            commas.
        path: the file, replaced if it is there.

    Returns:
        The path.

    Raises:
        ValueError: another metric, or options that need more than the two images (``saliency``, ``tile``).
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        RuntimeError: onnxruntime gives other scores. Nothing is written.
    """
    missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if not find_spec(package)]
    if missing:
        raise MissingDependencyError(f"an export needs {' and '.join(missing)}: pip install 'msds-plugin[onnx]'")
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"the name of the file must end in .onnx, got {path.name}")
    check_file(path)
    made = _exportable(metric)

    def write(part: Path) -> None:
        _write(made, part)
        _check(made, part)

    replace_file(path, write)
    return path


def _exportable(name: str) -> MatrixMetric:
    metric = create_scorer(name, "cpu", "torch").metric
    if not isinstance(metric, MatrixMetric):
        raise ValueError(f"{name} cannot be exported: it does more than compare matrices of features, as {EXPORTABLE} do")
    if metric.tile is not None or metric.attention is not None:
        raise ValueError(f"{name}: a file takes two whole images, leave out tile and saliency")
    return metric


def _write(metric: MatrixMetric, path: Path) -> None:
    # Sides that differ from each other, and so large that no map has a side of 1: torch would take such sides for fixed ones.
    least = 4 * metric.smallest
    example = tuple(torch.rand(1, 3, least + rows, least + columns) for rows, columns in ((43, 86), (106, 65)))
    names = ("distorted", "reference")
    sides = {
        name: {axis: torch.export.Dim(f"{name}_{side}", min=metric.smallest) for axis, side in ((2, "height"), (3, "width"))}
        for name in names
    }
    options: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False, "dynamic_shapes": sides}
    with torch.no_grad():
        torch.onnx.export(_Pair(metric).eval(), example, path, input_names=names, output_names=["score"], **options)


def _check(metric: Metric, path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    least = (metric.smallest, metric.smallest)
    for x_side, y_side in ((least, least), *SIDES):
        if min(*x_side, *y_side) < metric.smallest:
            continue
        coarse = torch.rand(1, 3, 8, 8, generator=generator)
        x, y = [F.interpolate(coarse, side, mode="bicubic").clamp(0, 1) for side in (x_side, y_side)]
        x = (x + 0.1 * torch.rand(x.shape, generator=generator)).clamp(0, 1)
        with torch.no_grad():
            expected = metric(x, y)
        at = f"at {x_side} beside {y_side}: nothing is written"
        try:
            (found,) = session.run(None, {"distorted": x.numpy(), "reference": y.numpy()})
        except Exception as error:  # onnxruntime has a class for each of its codes
            raise RuntimeError(f"onnxruntime cannot run the graph {at} ({error})") from error
        difference = (torch.from_numpy(found) - expected).abs().max().item()
        if not difference <= TOLERANCE:
            raise RuntimeError(f"onnxruntime differs by {difference:.2g} from torch {at}")

"""What sets the scores of one metric apart from all others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from ..common.scorer import Scorer
from ..images.samples import Reading


def identity(scorer: Scorer, name: str, amp: bool, reading: Reading) -> dict[str, Any]:
    """All that scores depend on, as plain values.

    Args:
        scorer: what makes them.
        name: without its options.
        amp: under autocast.
        reading: what is stated about the files.
    """
    return {
        "metric": name,
        "options": {key: str(value) for key, value in (scorer.options or {}).items()},
        "source": str(getattr(scorer.module, "source", type(scorer.module).__qualname__)),
        "parameters_sha256": _parameters_hash(scorer.module),
        "versions": versions_of({"msds-plugin", toolkit_of(scorer)} | _packages(scorer.module)),
        "device": scorer.device.type,
        "amp": amp,
        "reading": {"peak": reading.peak, "background": list(reading.background)},
    }


def toolkit_of(scorer: Scorer) -> str:
    """The package that a metric is from."""
    package = type(scorer.module).__module__.partition(".")[0]
    return "piq" if scorer.name.startswith("piq:") else "msds-plugin" if package == "msds_plugin" else package


def _packages(module: nn.Module) -> set[str]:
    """Whose code computes the metric, besides ours and torch's."""
    found = {type(part).__module__.partition(".")[0] for part in module.modules()}
    return found - {"msds_plugin", "torch", "torchvision"}


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for package in sorted(packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _parameters_hash(module: nn.Module) -> str | None:
    state = module.state_dict()
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # NumPy's view of a shared parameter would count as a change: it would get memory of its own, and lose its kernels.
        values = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest() if any(tensor.numel() for tensor in state.values()) else None

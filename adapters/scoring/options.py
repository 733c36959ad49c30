"""How a run is made: one value that every command and function hands down whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msds_plugin import registry
from msds_plugin.adapters.images.read import Reading

_LOG = logging.getLogger("msds_plugin")


@dataclass(frozen=True)
class Run:
    """Where and how metrics are computed, and how image files are read.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None for the GPU if there is one.
        runtime: ``torch`` or ``openvino``; None for OpenVINO on a CPU where it is installed, else torch.
        amp: compute in half precision (autocast).
        batch_size: images of one pass on a GPU, at most; on a CPU images go one by one.
        workers: threads that decode and score; 0 for the calling one alone, None for one per core (at most 16).
        reading: what the user states about the files.
        masks: an image for each reference that says by white where it counts, see :mod:`msds_plugin.adapters.scoring.masks`.
        note: called with each remark on how files were read.

    Raises:
        ValueError: a batch size below one, or a negative number of workers.
    """

    device: str | None = None
    runtime: str | None = None
    amp: bool = False
    batch_size: int = 8
    workers: int | None = None
    reading: Reading = Reading()  # noqa: RUF009 (frozen)
    masks: Mapping[Any, Any] = field(default_factory=dict)
    note: Callable[[str], object] = _LOG.warning

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")


def default_metric() -> str:
    """The metric where none is named."""
    return "msds-auto" if "msds-auto" in registry.names() else "msds-hybrid"

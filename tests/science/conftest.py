"""What the tests of the benchmark and the studies share: a distance that counts, images on disk, commands in this process."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from msds_plugin.adapters.scorers import Scorer
from msds_plugin.adapters.scoring import store
from msds_plugin.adapters.wrap import ToolkitMetric


class MeanError(nn.Module):
    """A distance that counts how often it is asked."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))
        self.asked = 0

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return ((x - y).abs() ** self.power).mean((1, 2, 3)).detach()


@pytest.fixture
def mean_error() -> type[MeanError]:
    return MeanError


@pytest.fixture
def scorer() -> Callable[..., Scorer]:
    """A scorer of a :class:`MeanError`."""

    def make(module: nn.Module | None = None, name: str = "error") -> Scorer:
        metric = ToolkitMetric(module or MeanError(), "error", lower_is_better=True)
        return Scorer(name, metric, torch.device("cpu"), {}, True, False)

    return make


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    """Writes (H, W, 3), values up to 255, or of a tensor (1, 3, H, W) up to one, as an image."""

    def write(pixels: np.ndarray | torch.Tensor, path: Path) -> Path:
        if isinstance(pixels, torch.Tensor):
            pixels = pixels[0].permute(1, 2, 0).numpy() * 255
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """A context in which Ctrl-C comes after five scores."""
    original = store.score_pairs

    def five(*arguments: object, **options: object) -> Iterator[object]:
        for place, result in enumerate(original(*arguments, **options)):
            if place == 5:
                raise KeyboardInterrupt
            yield result

    @contextmanager
    def patched() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(store, "score_pairs", five)
            yield

    return patched

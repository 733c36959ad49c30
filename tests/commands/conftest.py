"""What the tests of commands share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Smooth colours (height, width, 3) of a seed, with noise, uint8."""

    def make(seed: int = 0, noise: float = 0, size: tuple[int, int] = (64, 80)) -> np.ndarray:
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC)).astype(float)
        return (smooth + noise * rng.standard_normal(smooth.shape)).clip(0, 255).astype(np.uint8)

    return make


@pytest.fixture
def folders(tmp_path: Path, picture: Callable[..., np.ndarray]) -> tuple[Path, Path]:
    """Folders ``ref`` and ``dist``: three pictures, and the same with noise."""
    for name, noise in (("ref", 0), ("dist", 12)):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.fromarray(picture(index, noise)).save(tmp_path / name / f"photo{index}.png")
    return tmp_path / "ref", tmp_path / "dist"

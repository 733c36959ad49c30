"""The pytest fixture ``perceptual``: images beside their goldens.

It is in this package so that tests which don't use it load nothing: only pytest is imported until an image is checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--perceptual-update``."""
    group = parser.getgroup("perceptual")
    group.addoption("--perceptual-update", action="store_true", help="write the images that tests check as their goldens")


class Perceptual:
    """Checks images of one test file beside the goldens in its folder ``goldens/<name of the test file>``, or writes these.

    New images, and pictures of those that fail, go to ``folder``.
    """

    def __init__(self, goldens: Path, folder: Path, update: bool) -> None:
        self.goldens, self.folder, self.update = goldens, folder, update

    def check(self, image: Any, name: str, max_difference: float | None = None, metric: str | None = None) -> None:
        """Fail the test unless ``image`` looks like the golden of this name.

        Args:
            image: a path, PIL image, numpy array or tensor, as ``msds_plugin.score`` takes; goldens are PNG of 8 bits.
            name: of the golden, without suffix; may have slashes.
            max_difference: what passes; None for ``<name>.json`` beside the golden, as ``msds calibrate`` writes it, or the
                metric's default (1 of ``local``).
            metric: ``local``, or any name of ``msds list --all``; None for ``local``, or the one of that file.

        Raises:
            AssertionError: it does not, or there is no golden yet.
            ValueError: a name outside of the folder of goldens, or no image.
        """
        __tracebackhide__ = True
        from msds_plugin.adapters import gate
        from msds_plugin.adapters.scoring.arrays import save_image

        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} is no name of a golden in {self.goldens}: leave out .. and what is before the folder")
        golden, new = self.goldens / f"{name}.png", self.folder / f"{name}.png"
        target = golden if self.update else new
        target.parent.mkdir(parents=True, exist_ok=True)
        save_image(image, target)
        if self.update:
            return
        if not golden.is_file():
            raise AssertionError(f"no golden {golden}: look at {new}, then run pytest --perceptual-update")
        learned = golden.with_suffix(".json")
        calibrated = learned if max_difference is None and learned.is_file() else None
        scorer, allowed = gate.make(metric, max_difference, calibrated)
        matching = gate.pairs_of(golden, new)
        (verdict,) = gate.judge(matching, scorer, allowed)
        if verdict.reason:
            drawn = gate.draw(matching.pairs[0], scorer, self.folder / f"{name}.failed.png")
            raise AssertionError(f"{name}: {verdict.reason} ({scorer.name}). {drawn}")


@pytest.fixture
def perceptual(request: pytest.FixtureRequest, tmp_path: Path) -> Perceptual:
    """Check images beside goldens: ``perceptual.check(image, "name")``."""
    update = request.config.getoption("--perceptual-update")
    return Perceptual(request.path.parent / "goldens" / request.path.stem, tmp_path, update)

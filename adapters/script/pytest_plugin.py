"""The pytest fixture ``perceptual``: images beside their goldens.

It is in this package so that tests which don't use it load nothing: only pytest is imported until an image is checked.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--perceptual-update``."""
    group = parser.getgroup("perceptual")
    group.addoption("--perceptual-update", action="store_true", help="write the images that tests check as their goldens")


class Perceptual:
    """Checks images of one test file beside the goldens in its folder ``goldens/<name of the test file>``, or writes these.

    New images, and pictures of those that fail, go to ``folder``; what a run of pytest has written as goldens to ``written``,
    which its tests share: of two tests with one golden the second is checked beside it, and does not replace it.
    """

    def __init__(self, goldens: Path, folder: Path, update: bool, written: Path | None = None) -> None:
        self.goldens, self.folder, self.update, self.written = goldens, folder, update, written or folder / ".written"

    def check(self, image: Any, name: str, max_difference: float | None = None, metric: str | None = None) -> None:
        """Fail the test unless ``image`` looks like the golden of this name.

        Args:
            image: a path, PIL image, numpy array or tensor, as ``msds_plugin.score`` takes; goldens are PNG of 8 bits, with
                transparency laid over white.
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

        place = PureWindowsPath(name)  # the strictest rules of names, so that a golden is at one place on every system
        if place.anchor or ":" in place.as_posix() or ".." in place.parts or not place.name:
            raise ValueError(f"{name!r} is no name of a golden in {self.goldens}: leave out '..', ':' and a leading slash")
        file = f"{place.as_posix()}.png"
        golden, new = self.goldens / file, self.folder / file
        new.parent.mkdir(parents=True, exist_ok=True)
        save_image(image, new)
        beside, words = golden, name
        if self.update:
            beside = self.written / hashlib.sha256(os.fsencode(self.goldens)).hexdigest()[:16] / file
            beside.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(new, beside)  # in one step, as other tests may run at the same time
            except FileExistsError:
                words = f"{name} was written by an earlier check of this run, give each image a name of its own"
            else:
                golden.parent.mkdir(parents=True, exist_ok=True)
                save_image(image, golden)
                return
        elif not golden.is_file():
            raise AssertionError(f"no golden {golden}: look at {new}, then run pytest --perceptual-update")
        learned = golden.with_suffix(".json")
        calibrated = learned if max_difference is None and learned.is_file() else None
        scorer, allowed = gate.make(metric, max_difference, calibrated)
        matching = gate.pairs_of(beside, new)
        (verdict,) = gate.judge(matching, scorer, allowed)
        if verdict.reason:
            drawn = gate.draw(matching.pairs[0], scorer, new.with_suffix(".failed.png"))
            raise AssertionError(f"{words}: {verdict.reason} ({scorer.name}). {drawn}")


@pytest.fixture
def perceptual(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Perceptual:
    """Check images beside goldens: ``perceptual.check(image, "name")``."""
    update = request.config.getoption("--perceptual-update")
    base = tmp_path_factory.getbasetemp()
    written = (base.parent if hasattr(request.config, "workerinput") else base) / "goldens"  # pytest-xdist's workers share it
    return Perceptual(request.path.parent / "goldens" / request.path.stem, tmp_path, update, written)

"""What a run says of how it read its files, each kind once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_PROFILES = "have different colour profiles (none counts as sRGB): both are converted to sRGB"
_SIZES = "differ in size by a few pixels: metrics that compare pixel by pixel get the top left part that both have"


class _Noted(Protocol):
    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was read."""


class Notes:
    """Passes on the first note of each kind, with the file that it is about; threads may share it."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def say(self, path: Path, image: _Noted) -> None:
        """The notes of one image."""
        for note in image.notes:
            self._once(note, f"{path} {note}")

    def say_profiles(self, distorted: Path, reference: Path) -> None:
        """That two images are compared in sRGB."""
        self._once(_PROFILES, f"{distorted} and {reference} {_PROFILES}")

    def say_sizes(self, distorted: Path, reference: Path) -> None:
        """That two images were cut to one size."""
        self._once(_SIZES, f"{distorted} and {reference} {_SIZES}")

    def _once(self, kind: str, text: str) -> None:
        with self._lock:
            new = kind not in self._told
            self._told.add(kind)
        if new:
            self._tell(f"{text}; said once, for all files like this")

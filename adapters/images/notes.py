"""What a run says of how it read its files, each kind once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_PROFILES = "have different colour profiles (none counts as sRGB): both are converted to sRGB"


class _Noted(Protocol):
    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it was read."""


class Notes:
    """Passes on the first note of each kind, with the file that it is about."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def say(self, path: Path, image: _Noted) -> None:
        """The notes of one image."""
        for note in image.notes:
            self._once(note, f"{path} {note}")

    def say_profiles(self, distorted: Path, reference: Path) -> None:
        """That two images are compared in sRGB."""
        self._once(_PROFILES, f"{distorted} and {reference} {_PROFILES}")

    def _once(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._tell(f"{text}; said once, for all files like this")

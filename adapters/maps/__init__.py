"""Maps of where two images differ, as pictures."""

from .write import overlay, write_maps

__all__ = ["overlay", "write_maps"]

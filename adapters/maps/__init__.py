"""Maps of where two images differ, as pictures."""

from .write import has_map, overlay, overlay_of, write_maps

__all__ = ["has_map", "overlay", "overlay_of", "write_maps"]

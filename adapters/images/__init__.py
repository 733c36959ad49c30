"""Image files: reading them, images larger than memory, and pairing distorted images with references."""

from .read import ImageFileError, Picture, Reading, decode, read_image, to_tensor

__all__ = ["ImageFileError", "Picture", "Reading", "decode", "read_image", "to_tensor"]

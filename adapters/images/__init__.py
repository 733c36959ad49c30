"""Image files: reading them, images larger than memory, and pairing distorted images with references."""

import lazy_loader

# Each is imported when it is first used: pairing and listing files needs no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "colours": ["ImageFileError", "Reading"],
        "large": ["LargeImage"],
        "listing": ["VIDEO_SUFFIXES", "list_folder", "list_images"],
        "pairs": ["Matching", "Pair", "Pairing", "match"],
        "read": ["Picture", "decode", "open_pair", "read_image", "to_tensor"],
    },
)

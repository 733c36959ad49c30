"""Image files: reading them, images larger than memory, and pairing distorted images with references."""

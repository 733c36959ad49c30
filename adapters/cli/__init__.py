"""The command line ``msds``: one module per command, and what they share in ``terminal`` and ``datasets``."""

from .main import main

__all__ = ["main"]

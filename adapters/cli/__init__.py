"""The command line ``msds``: one module per command, and what they share in ``terminal`` and ``datasets``."""

from .app import app, main

__all__ = ["app", "main"]

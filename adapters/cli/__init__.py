"""The command line ``msds``: one module per command, and what several of them need in ``shared``."""

from msds_plugin.adapters.cli.main import main

__all__ = ["main"]

"""Metrics by name, and the engine that scores pairs of files with them."""

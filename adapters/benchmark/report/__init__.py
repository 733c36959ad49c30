"""Reports: the one document system, and the benchmark's page."""

from msds_plugin.adapters.benchmark.report.document import Cell, Document, figure, interval

__all__ = ["Cell", "Document", "figure", "interval"]

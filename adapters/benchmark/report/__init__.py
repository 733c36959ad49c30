"""Reports: the one document system, and the benchmark's page."""

from msds_plugin.adapters.benchmark.report.document import Cell, Document, Section, Shown, figure, interval, shown

__all__ = ["Cell", "Document", "Section", "Shown", "figure", "interval", "shown"]

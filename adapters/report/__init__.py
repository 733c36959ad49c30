"""The benchmark's report: tables, figures and pictures on one page."""

from .page import main_table, overall_table, write_report

__all__ = ["main_table", "overall_table", "write_report"]

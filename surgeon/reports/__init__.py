"""Reports: one self-contained HTML page for any set of runs and studies. Needs no torch."""

from surgeon.reports.page import write_report, write_run_report
from surgeon.reports.reading import find_folders

__all__ = ["find_folders", "write_report", "write_run_report"]

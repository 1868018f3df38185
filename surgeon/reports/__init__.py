"""Reports: one self-contained HTML page for any set of runs and studies. Needs no torch."""

from surgeon.reports.page import write_report, write_run_report

__all__ = ["write_report", "write_run_report"]

"""What a run has shown, on one page: for people who did not train it. Made from the run folder alone."""

from distill_mtl.report.write import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]

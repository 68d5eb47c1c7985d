"""One page about a screen, for people who did not run it."""

from gandl.report._report import write_report

__all__ = ["write_report"]

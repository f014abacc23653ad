"""One HTML file of a folder of results: tables and plots, and the words that they need."""

from wemoe.html_report.page import write_report

__all__ = ["write_report"]

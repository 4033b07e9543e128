"""What people read of a comparison: one page in a single file, a Markdown table, a picture."""

from hybridgen.report.page import render, write_page
from hybridgen.report.tables import markdown

__all__ = ["markdown", "render", "write_page"]

"""One page that shows a comparison: a single file, with no network and readable without script."""

from hybridgen.report.markdown import markdown
from hybridgen.report.page import render, write_page

__all__ = ["markdown", "render", "write_page"]

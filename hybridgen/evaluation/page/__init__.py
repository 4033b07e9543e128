"""One page that shows a comparison: a single file, with no network and readable without script."""

from hybridgen.evaluation.page.markdown import markdown
from hybridgen.evaluation.page.render import render, write_page

__all__ = ["markdown", "render", "write_page"]

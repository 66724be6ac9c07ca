"""Pages to look at: one of videos and their actions, and one that lists many results. `results` makes them."""

from tallformer_infer.report.content import PageAction, PageTruth, PageVideo
from tallformer_infer.report.index import IndexRow, render_index
from tallformer_infer.report.page import render_page, require_report

__all__ = ["IndexRow", "PageAction", "PageTruth", "PageVideo", "render_index", "render_page", "require_report"]

"""HTML report pages: `results` converts results and labels to the data that `page` renders."""

from tallformer_infer.report.page import (
    IndexRow,
    PageAction,
    PageTruth,
    PageVideo,
    page_policy,
    render_index,
    render_page,
    require_report,
    result_key,
)
from tallformer_infer.report.results import (
    RESULT_FORMATS,
    PageHeader,
    index_row,
    page_header,
    page_video,
    result_page,
    source_of,
)

__all__ = [
    "RESULT_FORMATS",
    "IndexRow",
    "PageAction",
    "PageHeader",
    "PageTruth",
    "PageVideo",
    "index_row",
    "page_header",
    "page_policy",
    "page_video",
    "render_index",
    "render_page",
    "require_report",
    "result_key",
    "result_page",
    "source_of",
]

"""Results as documents: selection of actions, conversion to JSON, and writing files.

select_actions ──▶ actions_document | activitynet_document ──▶ write_document
"""

from tallformer_infer.results.document import (
    UNTRAINED_NOTICE,
    Failure,
    actions_document,
    check_selection,
    describe_action,
    describe_file,
    describe_run,
    display_floor,
    load_schema,
    result_html,
    result_json,
    result_text,
    results_of_document,
    save_result,
    select_actions,
)
from tallformer_infer.results.writing import (
    STDOUT,
    check_destination,
    encode_document,
    write_content,
    write_document,
)
from tallformer_infer.structures import Selection

__all__ = [
    "STDOUT",
    "UNTRAINED_NOTICE",
    "Failure",
    "Selection",
    "actions_document",
    "check_destination",
    "check_selection",
    "describe_action",
    "describe_file",
    "describe_run",
    "display_floor",
    "encode_document",
    "load_schema",
    "result_html",
    "result_json",
    "result_text",
    "results_of_document",
    "save_result",
    "select_actions",
    "write_content",
    "write_document",
]

"""Labels: segments with their classes, in our own files and in those of other people's tools.

Result ─ labelled_video ─▶ LabelledVideo ─ encode_labels ─▶ bytes of a file
                                         ◀─ read_labels ──

segments     a segment, a labelled video, and names of videos
formats      every format: one row of a table, with its reader and writer
files        file reading, escapes, and lists of problems
truth        annotated segments of one subset, for eval, calibrate and train
activitynet, boris, editing, elan, label_studio, subtitles, tables, via: one module per family of formats
"""

from tallformer_infer.labels.activitynet import activitynet_document, result_rows, to_columns, truth_document, video_ids
from tallformer_infer.labels.files import CELL, Problems, escape, guard_formula, read_json_object, shown
from tallformer_infer.labels.formats import (
    BY_SUFFIX,
    FOR_RESULTS,
    FORMATS,
    READABLE,
    WRITABLE,
    LabelFile,
    encode_labels,
    notes_on,
    read_label_file,
    read_labels,
    require_libraries,
)
from tallformer_infer.labels.label_studio import Timeline, label_studio_prediction, timeline_of_config, videos_of_tasks
from tallformer_infer.labels.segments import (
    SUFFIXES,
    LabelledVideo,
    Segment,
    address_of,
    bare_name_of,
    composed,
    composed_names,
    files_of,
    find_videos,
    labelled_video,
    match_video,
    read_video_list,
    relative_address_of,
    shifted,
)
from tallformer_infer.labels.truth import Annotations, read_annotations

__all__ = [
    "BY_SUFFIX",
    "CELL",
    "FORMATS",
    "FOR_RESULTS",
    "READABLE",
    "SUFFIXES",
    "WRITABLE",
    "Annotations",
    "LabelFile",
    "LabelledVideo",
    "Problems",
    "Segment",
    "Timeline",
    "activitynet_document",
    "address_of",
    "bare_name_of",
    "composed",
    "composed_names",
    "encode_labels",
    "escape",
    "files_of",
    "find_videos",
    "guard_formula",
    "label_studio_prediction",
    "labelled_video",
    "match_video",
    "notes_on",
    "read_annotations",
    "read_json_object",
    "read_label_file",
    "read_labels",
    "read_video_list",
    "relative_address_of",
    "require_libraries",
    "result_rows",
    "shifted",
    "shown",
    "timeline_of_config",
    "to_columns",
    "truth_document",
    "video_ids",
    "videos_of_tasks",
]

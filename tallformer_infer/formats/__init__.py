"""Labels in the formats of other people's tools: written for them, and read back once people have corrected them.

Result ─ labelled_video ─▶ LabelledVideo ─ encode_labels ─▶ bytes of a file
                                         ◀─ read_labels ──
"""

from tallformer_infer.formats.labelled import LabelledSegment, LabelledVideo, labelled_video, shifted
from tallformer_infer.formats.places import address_of, relative_address_of
from tallformer_infer.formats.reading import LabelFile, ReadableFormat, format_of, read_label_file, read_labels
from tallformer_infer.formats.writing import (
    FORMATS,
    FormatFacts,
    LabelFormat,
    encode_json,
    encode_labels,
    is_label_format,
    notes_on,
    require_libraries,
)

__all__ = [
    "FORMATS",
    "FormatFacts",
    "LabelFile",
    "LabelFormat",
    "LabelledSegment",
    "LabelledVideo",
    "ReadableFormat",
    "address_of",
    "encode_json",
    "encode_labels",
    "format_of",
    "is_label_format",
    "labelled_video",
    "notes_on",
    "read_label_file",
    "read_labels",
    "relative_address_of",
    "require_libraries",
    "shifted",
]

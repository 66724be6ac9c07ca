"""Labels: segments with their classes, in our own files and in those of other people's tools.

Result ─ labelled_video ─▶ LabelledVideo ─ encode_labels ─▶ bytes of a file
                                         ◀─ read_labels ──

segments     a segment, a video, and how they are gathered from rows
formats      every format: one row of a table, with its reader and writer
names        which two videos are the same, and where they are
files        reading with care, and what is wrong with a file
truth        the annotated segments of one subset, for eval, calibrate and train
activitynet, boris, chapters, editing, elan, label_studio, subtitles, tables, via: one module per family of formats
"""

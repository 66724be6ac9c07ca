"""Rows of the index page from an archive's database: every video it knows, and what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tallformer_infer.archive.database import DATABASE, ArchiveDatabase, VideoRow
from tallformer_infer.archive.results import RESULTS, file_name
from tallformer_infer.commands.archive import row_losses
from tallformer_infer.labels import relative_address_of
from tallformer_infer.report import IndexRow

_SUMS = (
    "SELECT video_id, labels.name, COUNT(*), SUM(end_s - start_s) FROM actions JOIN labels ON labels.id = label_id "
    "GROUP BY video_id, label_id"
)


def is_archive(folder: Path) -> bool:
    """Whether a folder is one that `label` made."""
    return (folder / DATABASE).is_file()


def archive_rows(folder: Path, seen_from: Path) -> Iterator[IndexRow]:
    """A row for every video of an archive, in the order in which they were found, with the address of its page.

    Args:
        folder: Of the archive.
        seen_from: Folder of the index.

    Raises:
        ArchiveError: The database cannot be read.
    """
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    seconds: dict[int, dict[str, float]] = defaultdict(dict)
    with ArchiveDatabase(folder) as database:
        for video, label, count, length_s in database.connection.execute(_SUMS):
            counts[video][label], seconds[video][label] = count, length_s
        for row in database.videos():
            if row.status != "ignored":
                page = folder / RESULTS / file_name(row.name, "html")
                link = relative_address_of(str(page), seen_from) if "html" in row.outputs and page.is_file() else None
                yield _row(row, counts[row.id], seconds[row.id], link)


def _row(row: VideoRow, counts: dict[str, int], seconds: dict[str, float], page: str | None) -> IndexRow:
    return IndexRow(
        name=row.source,
        status=" and ".join(row.losses) or row.status,
        duration_s=row.duration_s,
        counts=counts,
        seconds=seconds,
        error=(row.error or "") if row.status == "failed" else "",
        note=row_losses(row),
        page=page,
    )

"""Decide what is left to do, from what the archive holds; see Note [never twice] in `stages`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from tallformer_infer.archive.database import ArchiveDatabase, VideoRow
from tallformer_infer.archive.places import ResultPlace, choose_names
from tallformer_infer.archive.results import has_outputs
from tallformer_infer.archive.sources import FoundSource
from tallformer_infer.archive.stages import StageHashes
from tallformer_infer.media import is_address

_TRIED_AGAIN = frozenset({"read", "output", "scores"})
"""Failures that may have resolved themselves; others wait for `tallformer archive retry`."""


@dataclass(kw_only=True)
class Plan:
    """What to do with each video of the sources."""

    label: list[VideoRow] = field(default_factory=list)
    """For workers, largest first."""
    conclude: list[VideoRow] = field(default_factory=list)
    """Candidates or actions are stored: only suppression, selection or result files are missing."""
    unchanged: list[VideoRow] = field(default_factory=list)
    """Done before."""
    failed_before: list[VideoRow] = field(default_factory=list)
    """Failed before, and not tried again."""
    ignored: list[VideoRow] = field(default_factory=list)
    """Known not to be videos."""
    size_bytes: float = 0.0
    """Total size of the work, as far as sizes are known."""


def plan(
    database: ArchiveDatabase,
    found: Sequence[FoundSource],
    hashes: StageHashes,
    *,
    place: ResultPlace,
    formats: Sequence[str],
) -> Plan:
    """Compare the sources with the archive, and add rows for new videos.

    Args:
        database: Open for writing.
        found: Videos of the sources.
        hashes: Of the model and settings of this run.
        place: Where result files go.
        formats: Of the result files.
    """
    known = {row.source: row for row in database.videos()}
    new = choose_names([source for source in found if source.source not in known], database.name_keys())
    if new:
        database.add((source.source, name, key, source.is_guess) for source, name, key in new)
        known = {row.source: row for row in database.videos()}
    done = Plan()
    again: list[int] = []
    sizes: dict[int, float] = {}
    for source in found:
        row = known[source.source]
        size_bytes, is_changed = _look(row)
        sizes[row.id] = size_bytes
        is_written = set(formats) <= set(row.outputs) and has_outputs(place, row.name, formats)
        wanted = _list_for(done, row, hashes, is_changed=is_changed, is_written=is_written)
        wanted.append(row)
        if (wanted is done.label or wanted is done.conclude) and size_bytes < float("inf"):
            done.size_bytes += size_bytes
        if wanted is done.label and row.status in ("done", "failed", "ignored"):
            again.append(row.id)
    database.let_wait(again, forget_attempts=True)
    done.label = sorted((database.video(row.id) for row in done.label), key=lambda row: (-sizes[row.id], row.id))
    return done


def _look(row: VideoRow) -> tuple[float, bool]:
    """Size of a source (infinite if unknown), and whether it may have changed since its row was written."""
    if is_address(row.source):  # only the server knows; a worker asks it
        return (float("inf") if row.size_bytes is None else float(row.size_bytes)), True
    try:
        status = os.stat(row.source)  # noqa: PTH116 - a name is taken as it is
    except OSError:
        return 0.0, True
    return float(status.st_size), (status.st_size, status.st_mtime_ns) != (row.size_bytes, row.mtime_ns)


def _list_for(done: Plan, row: VideoRow, hashes: StageHashes, *, is_changed: bool, is_written: bool) -> list[VideoRow]:
    if is_changed or row.status in ("waiting", "running"):
        return done.label
    if row.status == "ignored":
        return done.ignored
    if row.status == "failed" and row.result is None:
        return done.label if row.error_kind in _TRIED_AGAIN else done.failed_before
    if row.actions_hash == hashes.actions:
        return done.unchanged if row.status == "done" and is_written else done.conclude
    return done.conclude if row.localizer_hash == hashes.localizer else done.label

"""How long does a query take over an archive of a million actions?

    python -m benchmarks.bench_archive_query >> benchmarks/results/archive_query.jsonl

The archive is generated: 10,000 videos of an hour, 100 actions each, of 200 labels. Each line is one kind of query, for
its best 100 actions; the median and quartiles are over different labels, scores, times and paths.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.goals import Figure
from benchmarks.measure import measure, report
from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.queries import ActionFilter, find_actions

VIDEOS, ACTIONS_EACH, LABELS, HOUR_S = 10_000, 100, 200, 3600.0


def main(*, videos: int = VIDEOS) -> None:
    """Time each kind of query, and print a JSON line for each."""
    with tempfile.TemporaryDirectory() as work, ArchiveDatabase(Path(work), writes=True) as database:
        fill(database, videos=videos)
        for name, wanted in _queries().items():
            timing = measure(lambda wanted=wanted: list(find_actions(database, next(wanted))), repeats=50)
            report("archive_query", timing, query=name, actions=videos * ACTIONS_EACH, videos=videos, limit=100)


def goal(work: Path) -> dict[str, Figure]:
    """The slowest kind of query, with a million actions."""
    with tempfile.TemporaryDirectory(dir=work) as scratch, ArchiveDatabase(Path(scratch), writes=True) as database:
        fill(database, videos=VIDEOS)
        spreads = {
            name: measure(lambda wanted=wanted: list(find_actions(database, next(wanted))), repeats=50).spread
            for name, wanted in _queries().items()
        }
    slowest = max(spreads, key=lambda name: spreads[name].median)
    return {"slowest": Figure.of(spreads[slowest], f"slowest of {len(spreads)} kinds: {slowest}")}


def fill(database: ArchiveDatabase, *, videos: int) -> None:
    """Fill an archive with generated actions."""
    random = np.random.default_rng(0)
    rows = videos * ACTIONS_EACH
    starts = random.uniform(0, HOUR_S, rows)
    ends = starts + random.exponential(5.0, rows)
    with database.changing() as change:
        change.executemany("INSERT INTO labels VALUES (?, ?)", [(k, f"label {k}") for k in range(LABELS)])
        names = [f"year {number % 20}/video {number:05d}.mp4" for number in range(videos)]
        change.executemany(
            "INSERT INTO videos (id, source, name, name_key, status) VALUES (?, ?, ?, ?, 'done')",
            [(number, f"/archive/{name}", name, name) for number, name in enumerate(names)],
        )
        columns = (np.arange(rows) // ACTIONS_EACH, random.integers(0, LABELS, rows), starts, ends, random.random(rows))
        change.executemany(
            "INSERT INTO actions (video_id, label_id, start_s, end_s, score) VALUES (?, ?, ?, ?, ?)",
            zip(*(column.tolist() for column in columns), strict=True),
        )


def _queries() -> dict[str, Iterator[ActionFilter]]:
    count = itertools.count()
    return {
        "label and score": (
            ActionFilter(labels=(f"label {number % LABELS}",), min_score=number % 10 / 10) for number in count
        ),
        "label and highest score": (
            ActionFilter(labels=(f"label {number % LABELS}",), max_score=number % 10 / 1000) for number in count
        ),
        "score": (ActionFilter(min_score=number % 10 / 10) for number in count),
        "three labels": (ActionFilter(labels=tuple(f"label {number % 60 + k}" for k in range(3))) for number in count),
        "time": (ActionFilter(from_s=number * 30.0 % 3000, to_s=number * 30.0 % 3000 + 10) for number in count),
        "long time": (ActionFilter(from_s=600.0, to_s=3000.0 - number % 50) for number in count),
        "one video": (ActionFilter(path=f"*/video {number % 1000:05d}.mp4") for number in count),
        "folder, label and score": (
            ActionFilter(path=f"/archive/year {number % 20}/*", labels=(f"label {number % LABELS}",), min_score=0.9)
            for number in count
        ),
        "folder and time": (
            ActionFilter(path=f"/archive/year {number % 20}/*", from_s=number * 3.0, to_s=number * 3.0 + 10)
            for number in count
        ),
        "rare: label, time and score": (
            ActionFilter(labels=(f"label {number % LABELS}",), from_s=3590, min_score=0.99) for number in count
        ),
    }


if __name__ == "__main__":
    main()

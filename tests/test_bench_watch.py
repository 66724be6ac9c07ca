"""What `bench_watch` counts, and a short run of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_watch import Watched, growth, latencies, watch_film
from tallformer_training.synthetic import VideoSpec, write_script, write_video


def test_growth_is_of_the_highest_sample_after_the_warm_up() -> None:
    assert growth([50, 100, 99, 104, 101], 2) == pytest.approx(0.04)
    assert growth([50, 100, 98], 2) == 0


def test_latency_counts_from_where_the_film_reaches_the_end_of_the_final_action() -> None:
    def line(kind: str, number: int, end_s: float) -> dict[str, object]:
        return {"event": kind, "id": number, "label": "wave", "segment": [10.0, end_s]}

    watched = Watched(began_s=1000.0, ended_s=1060.0)
    watched.lines = [
        (1012.5, line("provisional", 1, 12.0)),
        (1014.75, line("provisional", 1, 13.8)),
        (1034.0, line("action", 1, 14.0)),
        (1061.0, line("action", 2, 50.0)),  # made final by the end of the film
    ]

    assert latencies(watched) == {"first": [-1.5], "right": [0.75], "final": [20.0]}


def test_memory_of_watch_stays_flat(tmp_path: Path) -> None:
    film = tmp_path / "minute.mp4"
    write_video(write_script(VideoSpec(subset="testing", seed=0, index=0, minutes=1)), film)

    watched = watch_film(film, 8, is_paced=False)

    assert len(watched.memory_mb) == 8
    assert growth(watched.memory_mb, 4) < 0.05
    assert sum(line["event"] == "action" for _, line in watched.lines) > 50

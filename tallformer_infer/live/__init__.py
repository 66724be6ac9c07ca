"""`tallformer watch`: detection in cameras, streams and growing files."""

from __future__ import annotations

from tallformer_infer.live.feed import Feed, FeedOptions, Gap, Session
from tallformer_infer.live.watch import Event, Recorder, watch

__all__ = ["Event", "Feed", "FeedOptions", "Gap", "Recorder", "Session", "watch"]

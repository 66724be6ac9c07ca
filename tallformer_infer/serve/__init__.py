"""`tallformer serve`: an HTTP API and a web page on top of the workers and database of an archive."""

from __future__ import annotations

from tallformer_infer.serve.app import ServerOptions, create_app
from tallformer_infer.serve.driver import DriverOptions
from tallformer_infer.serve.jobs import Job, JobOptions, JobState, JobStore
from tallformer_infer.serve.label_studio import LabelStudioOptions

__all__ = [
    "DriverOptions",
    "Job",
    "JobOptions",
    "JobState",
    "JobStore",
    "LabelStudioOptions",
    "ServerOptions",
    "create_app",
]

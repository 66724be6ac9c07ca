"""Every deliberate error of the project.

TallformerError
├── ConfigError      a recipe or setting that cannot work
├── BundleError      a model bundle that is missing, damaged or of another version
├── MediaError       a video that cannot be opened, or has nothing decodable in it
├── AnnotationError  annotations or predictions that cannot be read or do not fit together
├── DeviceError      a requested device or runtime that is not available
├── EngineError      a TensorRT engine that is missing, stale or damaged, or cannot be built
├── CheckpointError  a checkpoint that does not fit the model it is loaded into
├── LongMemoryError  a long memory that is missing, damaged, in use, or of another data set
├── ExportError      an exported graph that did not come out as asked
├── ArchiveError     an archive of labelled videos that cannot be used, or sources that cannot be listed
├── ServerError      a `tallformer serve` that cannot be reached, refuses a request, or failed with a job
├── StoppedError     work that was stopped from outside before it was done
├── ExtraError       an optional part of the install that is missing
└── OutputError      a result that cannot be written

A message says what was given, what was expected and what to do. The command line prints it as one line and
exits with code 1. Mistakes of a programmer stay `ValueError` and `TypeError`.
"""

from __future__ import annotations


class TallformerError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(TallformerError):
    """A recipe or setting that is not valid."""


class BundleError(TallformerError):
    """A model bundle that is missing, damaged or of another version."""


class MediaError(TallformerError):
    """A video that cannot be opened or decoded."""


class AnnotationError(TallformerError):
    """Annotations or predictions that cannot be read or do not fit together; one line per problem."""


class DeviceError(TallformerError):
    """A requested device or runtime that is not available."""


class EngineError(TallformerError):
    """A TensorRT engine that is missing, stale or damaged, or cannot be built."""


class CheckpointError(TallformerError):
    """A checkpoint that does not fit the model it is loaded into."""


class LongMemoryError(TallformerError):
    """A long memory that is missing, damaged, in use, or of another data set."""


class ExportError(TallformerError):
    """An exported graph that does not match the request."""


class ArchiveError(TallformerError):
    """An archive of labelled videos that cannot be used, or sources that cannot be listed."""


class ServerError(TallformerError):
    """A `tallformer serve` that cannot be reached, refuses a request, or failed with a job."""


class StoppedError(TallformerError):
    """Work that was stopped from outside before it was done; without a message: the command has reported the stop."""


class ExtraError(TallformerError):
    """An optional part of the install that is missing."""


class OutputError(TallformerError):
    """A result that cannot be written."""

"""Finished videos into result files and the database, in that order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tallformer_infer import __version__
from tallformer_infer.archive.database import ArchiveDatabase, Labelled
from tallformer_infer.archive.outputs import write_outputs
from tallformer_infer.archive.rows import VideoRow
from tallformer_infer.archive.stages import StageHashes, hash_recipe
from tallformer_infer.bundle import Bundle
from tallformer_infer.config import from_json, to_json
from tallformer_infer.results import Selection
from tallformer_infer.structures import Result


class ResultKeeper:
    """Knows where the results of a run go, and what to note with them."""

    def __init__(
        self,
        database: ArchiveDatabase,
        bundle: Bundle,
        hashes: StageHashes,
        *,
        selection: Selection,
        out: Path,
        formats: Sequence[str],
    ) -> None:
        self._database = database
        self._hashes = hashes
        self._selection = selection
        self._out = out
        self._formats = tuple(formats)
        self._model = (bundle.sha256, bundle.recipe.name, hash_recipe(bundle))
        self._versions = {"tallformer": __version__, "av": metadata.version("av")}

    def write_files(self, row: VideoRow, result: Result) -> Result:
        """Write the result files of a video; may be called from several threads.

        The row must not claim to have them meanwhile, see `ArchiveDatabase.forget_outputs`.

        Args:
            row: The video.
            result: What was found in it, or in a file of the same content.

        Returns:
            The result, under the video's own path.

        Raises:
            OutputError: A file cannot be written.
        """
        result = dataclasses.replace(result, video=dataclasses.replace(result.video, path=row.source))
        write_outputs(result, self._selection, out=self._out, name=row.name, formats=self._formats)
        return result

    def record(self, row: VideoRow, result: Result, remarks: Sequence[str], *, counts: bool = True) -> None:
        """Write the row and the actions of a video whose result files are written.

        Args:
            row: The video.
            result: What was found in it.
            remarks: What else there is to know.
            counts: It was an attempt of its own.

        Raises:
            ArchiveError: The database cannot be written.
        """
        labelled = Labelled(
            duration_s=result.duration_s,
            result=to_json(dataclasses.replace(result, actions=())),
            selection=to_json(self._selection),
            remarks=tuple(remarks),
            hashes=(self._hashes.encoder, self._hashes.localizer, self._hashes.actions),
            outputs=self._formats,
            model=self._model,
            versions={**self._versions, "runtime": result.provenance.runtime},
        )
        self._database.finish(row.id, labelled, result.actions, counts=counts)

    def same_content(self, row: VideoRow) -> tuple[VideoRow, Result] | None:
        """Another video of the same content that this model, with these settings, is done with."""
        for other in self._database.videos_of_content(row.content or "", self._hashes.actions):
            if other.id != row.id and other.result is not None:
                return other, stored_result(self._database, other)
        return None


def stored_result(database: ArchiveDatabase, row: VideoRow) -> Result:
    """The result of a video that is done, as it was found.

    Raises:
        ConfigError: It was written by another version.
    """
    result = from_json(Result, row.result, where=f"result of {row.source}")
    return dataclasses.replace(result, actions=database.actions_of(row.id))

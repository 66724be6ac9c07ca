"""Write finished videos to result files and then to the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import metadata

from tallformer_infer import __version__
from tallformer_infer.archive.database import ArchiveDatabase, Labelled, VideoRow
from tallformer_infer.archive.places import ResultPlace
from tallformer_infer.archive.stages import StageHashes, hash_recipe
from tallformer_infer.bundle import Bundle
from tallformer_infer.config import from_json, to_json
from tallformer_infer.labels import (
    FORMATS,
    WRITABLE,
    activitynet_document,
    encode_labels,
    labelled_video,
    require_libraries,
)
from tallformer_infer.report import require_report
from tallformer_infer.report.results import result_page, source_of
from tallformer_infer.results import Selection, actions_document, encode_document
from tallformer_infer.structures import Result

_SHARED_SUFFIXES = (".json", ".xml", ".txt")


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats whose libraries are not installed, before hours are spent.

    Raises:
        ExtraError: One is missing.
    """
    for form in formats:
        if form == "html":
            require_report()
        else:
            require_libraries(form)


def file_name(name: str, form: str) -> str:
    """Name of a result file in the results folder; `/` between folders."""
    if form in ("json", "html"):
        return f"{name}.{form}"
    suffix = FORMATS[form].suffix
    return f"{name}.{form}{suffix}" if suffix in _SHARED_SUFFIXES else f"{name}{suffix}"


def write_outputs(
    result: Result, selection: Selection, *, place: ResultPlace, name: str, formats: Sequence[str]
) -> None:
    """Write the result files of a video, each whole or not at all.

    Raises:
        OutputError: One cannot be written, or would lie outside of the place.
    """
    for form in formats:
        file = file_name(name, form)
        folder = None if place.folder is None else place.folder.joinpath(*file.split("/")).parent
        if form == "json":
            content = encode_document(actions_document([result], selection=selection))
        elif form == "activitynet":
            content = encode_document(activitynet_document([result], selection=selection))
        elif form == "html":
            content = result_page([result], selection=selection, sources=[source_of(result.video.path, folder)])
        elif form in WRITABLE:
            content = encode_labels([labelled_video(result)], form, folder=folder)
        else:
            raise ValueError(form)
        place.write(file, content)


def has_outputs(place: ResultPlace, name: str, formats: Sequence[str]) -> bool:
    """Whether all result files of a video exist."""
    return all(place.has(file_name(name, form)) for form in formats)


class ResultKeeper:
    """Writes the results of a run, with the facts that are recorded with them."""

    def __init__(
        self,
        database: ArchiveDatabase,
        bundle: Bundle,
        hashes: StageHashes,
        *,
        selection: Selection,
        place: ResultPlace,
        formats: Sequence[str],
    ) -> None:
        self._database = database
        self._hashes = hashes
        self._selection = selection
        self.place = place
        """Place of the result files."""
        self.formats = tuple(formats)
        """Formats of the result files of a video."""
        self._model = (bundle.sha256, bundle.recipe.name, hash_recipe(bundle))
        self._versions = {"tallformer": __version__, "av": metadata.version("av")}

    def write_files(self, row: VideoRow, result: Result) -> None:
        """Write the result files of a video; may be called from several threads.

        The row must not claim to have them meanwhile, see `ArchiveDatabase.forget_outputs`.

        Args:
            row: The video.
            result: What was found in it, or in a file of the same content.

        Raises:
            OutputError: A file cannot be written.
        """
        named = _under_path_of(row, result)
        write_outputs(named, self._selection, place=self.place, name=row.name, formats=self.formats)

    def is_written(self, row: VideoRow) -> bool:
        """Whether the result files of a video exist and are of this model and these settings, as its row says."""
        return (
            row.actions_hash == self._hashes.actions
            and set(self.formats) <= set(row.outputs)
            and has_outputs(self.place, row.name, self.formats)
        )

    def record(
        self,
        row: VideoRow,
        result: Result,
        remarks: Sequence[str],
        *,
        counts: bool = True,
        problem: str | None = None,
    ) -> None:
        """Write the row and the actions of a video whose result files are written.

        Args:
            row: The video.
            result: What was found in it.
            remarks: What else there is to know.
            counts: It was an attempt of its own.
            problem: Why the files could not be written; they can be, later, from what the row keeps.

        Raises:
            ArchiveError: The database cannot be written.
        """
        labelled = Labelled(
            duration_s=result.duration_s,
            missing_s=result.missing_s,
            decode_errors=result.decode_errors,
            result=to_json(dataclasses.replace(_under_path_of(row, result), actions=())),
            selection=to_json(self._selection),
            remarks=tuple(remarks),
            hashes=(self._hashes.encoder, self._hashes.localizer, self._hashes.actions),
            outputs=() if problem else self.formats,
            model=self._model,
            versions={**self._versions, "runtime": result.provenance.runtime},
        )
        self._database.finish(row.id, labelled, result.actions, counts=counts, problem=problem)

    def same_content(self, row: VideoRow) -> tuple[VideoRow, Result] | None:
        """Another video with the same content that is done under this model and these settings."""
        for other in self._database.videos_of_content(row.content or "", self._hashes.actions):
            if other.id != row.id and other.result is not None:
                return other, stored_result(self._database, other)
        return None


def _under_path_of(row: VideoRow, result: Result) -> Result:
    return dataclasses.replace(result, video=dataclasses.replace(result.video, path=row.source))


def stored_result(database: ArchiveDatabase, row: VideoRow) -> Result:
    """The result of a video that is done, as it was found.

    Raises:
        ConfigError: It was written by another version.
    """
    result = from_json(Result, row.result, where=f"result of {row.source}")
    return dataclasses.replace(result, actions=database.actions_of(row.id))

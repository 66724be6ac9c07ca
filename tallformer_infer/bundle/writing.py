"""Write operating points into a bundle atomically, and pack bundles into .zip files."""

from __future__ import annotations

import dataclasses
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tallformer_infer.bundle.reading import DESCRIPTION, Bundle, load_bundle
from tallformer_infer.config import Calibration
from tallformer_infer.errors import BundleError, ConfigError, OutputError
from tallformer_infer.files import replace_folder, replacing, writing
from tallformer_infer.results import check_destination, write_document


def write_calibration(source: str | Path | Bundle, calibration: Calibration, *, out: Path | None = None) -> Bundle:
    """Store operating points in a bundle, replacing those it has.

    Graphs, recipe and provenance do not change; only `bundle.json` does, and with it the hash of the bundle.
    A reader sees the old bundle or the new one, even if the program is stopped. A copy has the files next to
    `bundle.json`, not those in folders (engines are for one machine).

        report = calibrate(read_predictions(...), read_truth(...), classes=bundle.recipe.classes)
        write_calibration(bundle, report.calibration, out=Path("calibrated"))

    Args:
        source: A folder, a .zip, the name of a bundled model, or a loaded bundle.
        calibration: Result of `tallformer_infer.evaluation.calibrate`.
        out: New bundle: a folder, or a file with the suffix .zip. An existing bundle is replaced. None overwrites
            `source`, which is refused for a model that is installed with the package.

    Returns:
        The new bundle.

    Raises:
        BundleError: `source` is missing or damaged, must not be changed, or has other classes.
        OutputError: The bundle cannot be written; an existing one is unchanged.
    """
    bundle = source if isinstance(source, Bundle) else load_bundle(source)
    place = calibration_destination(bundle, out)
    before = bundle.calibration
    first_sha256 = (before and before.uncalibrated_sha256) or bundle.sha256
    calibration = dataclasses.replace(calibration, uncalibrated_sha256=first_sha256)
    try:
        description = dataclasses.replace(bundle.description, calibration=calibration)
    except ConfigError as error:
        raise BundleError(f"{bundle.path}: {error}") from error
    if place.is_dir() and place.samefile(bundle.path):
        write_document(description.as_json(), place / DESCRIPTION)
    else:
        _write_copy(bundle, dataclasses.replace(description, graphs_from=None).as_json(), place)
    return load_bundle(place)


def calibration_destination(bundle: Bundle, out: Path | None) -> Path:
    """Path that `write_calibration` will write; checks that it can be written, before a long run.

    Raises:
        BundleError: The bundle is installed with the package, and `out` is None.
        OutputError: `out` cannot be written, or exists and is not a bundle.
    """
    if out is None and bundle.is_bundled:
        raise BundleError(
            f"{bundle.name}: is installed with tallformer and cannot be changed; use --out NEW_BUNDLE to write a copy"
        )
    place = (bundle.path if out is None else out).resolve()
    if place.is_dir():
        if place.suffix == ".zip":
            raise OutputError(f"{place}: is a folder; expected a file name")
        if not (place / DESCRIPTION).is_file():
            raise OutputError(f"{place}: exists and is not a bundle; name a new folder, or a file that ends in .zip")
        check_destination(place / DESCRIPTION)
    elif place.exists() and out is not None and place.suffix != ".zip":
        raise OutputError(f"{place}: exists and is not a bundle; name a new folder, or a file that ends in .zip")
    else:
        check_destination(place, example="model.zip")
    return place


def zip_folder(folder: Path, target: Path) -> None:
    """Pack the files of a folder into a .zip atomically; the same files give the same bytes.

    They are stored uncompressed: weights do not compress, and loading stays a plain read.

    Raises:
        OSError: The file cannot be written; an existing one is unchanged.
    """
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(file.name)  # dated 1980, for reproducible files
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())


def _write_copy(bundle: Bundle, description: dict[str, Any], place: Path) -> None:
    """Write all files of a bundle to a temporary folder, and rename it to `place`."""
    is_zip = place.suffix == ".zip" or place.is_file()
    with (
        writing(place),
        tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent, ignore_cleanup_errors=True) as folder,
    ):
        made = Path(folder) / "bundle"
        made.mkdir()
        for name, content in bundle.other_files():
            (made / name).write_bytes(content)
        write_document(description, made / DESCRIPTION)
        if is_zip:
            zip_folder(made, place)
        else:
            replace_folder(made, place)

"""Which engine is used, and what is refused: told from files alone, without TensorRT."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.errors import BundleError, EngineError
from tallformer_infer.files import user_cache_folder
from tallformer_infer.runtime.tensorrt import store
from tallformer_infer.runtime.tensorrt.keys import BatchProfile, EngineKey, Gpu, Library, engine_key, platform_name
from tallformer_infer.runtime.tensorrt.store import misfit

FULL = Library("tensorrt", "10.13.3.9", None)
H200 = Gpu(name="NVIDIA H200", capability=90)
ENGINE = b"what TensorRT would load"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return user_cache_folder()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(shutil.copytree(load_bundle().path, tmp_path / "model"))


def key_for(bundle: Bundle, *, library: Library = FULL, target: str = "sm90", batch: str = "1,8,8") -> EngineKey:
    return engine_key(bundle, "encoder", library, target=target, batch=BatchProfile.parse(batch))


def write(bundle: Bundle, key: EngineKey | None = None, content: bytes = ENGINE) -> store.StoredEngine:
    folder = store.folder_to_write(bundle)
    return store.write_engine(folder, key or key_for(bundle), content, build_s=1.5, built_on="NVIDIA H200")


def test_models_that_share_a_graph_and_differ_in_input_size_have_engines_of_their_own() -> None:
    """`kinetics400-fast` runs the encoder of `kinetics400` on smaller pictures."""
    usual, fast = (key_for(load_bundle(name)) for name in ("kinetics400", "kinetics400-fast"))

    assert usual.graph_sha256 == fast.graph_sha256
    assert usual.input_sizes != fast.input_sizes
    assert usual.stem != fast.stem


def test_engine_that_was_written_is_found_and_read(bundle: Bundle) -> None:
    written = write(bundle)

    found = store.find_engine(bundle, "encoder", FULL, H200)

    assert found == written
    assert found.read() == ENGINE
    assert found.path.parent == bundle.path / "engines"


def test_name_of_an_engine_shows_graph_gpu_library_precision_and_batch(bundle: Bundle) -> None:
    sha = bundle.graphs["encoder"].sha256[:12]

    assert key_for(bundle).stem == f"encoder_{sha}_32x64x64x3_fp32_sm90_b1.8.8_tensorrt-10.13.3.9_{platform_name()}"


@pytest.mark.parametrize(
    "change",
    [
        {"graph_sha256": "0" * 64},
        {"input_sizes": "32x96x96x3"},
        {"precision": "fp16"},
        {"target": "sm89"},
        {"library": "tensorrt_rtx"},
        {"library_version": "10.13.3.10"},
        {"platform": "windows-amd64"},
        {"batch": BatchProfile(least=1, best=8, most=16)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_an_engine_is_in_its_name(bundle: Bundle, change: dict[str, object]) -> None:
    key = key_for(bundle)

    assert dataclasses.replace(key, **change).stem != key.stem  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"graph_sha256": "0" * 64}, "stale: made from another encoder graph than the bundle's"),
        ({"input_sizes": "32x96x96x3"}, "made for inputs of 32x96x96x3, the bundle's are 32x64x64x3"),
        ({"target": "sm86"}, "made for sm86, the GPU here is sm90"),
        ({"library_version": "10.12.0.36"}, "made with tensorrt 10.12.0.36, here is tensorrt 10.13.3.9"),
        ({"library": "tensorrt_rtx"}, "made with tensorrt_rtx 10.13.3.9, here is tensorrt 10.13.3.9"),
        ({"platform": "plan9-mips"}, f"made for plan9-mips, this is {platform_name()}"),
    ],
)
def test_engine_that_does_not_fit_is_not_used_and_the_message_says_why(
    bundle: Bundle, change: dict[str, object], reason: str
) -> None:
    write(bundle, dataclasses.replace(key_for(bundle), **change))  # type: ignore[arg-type]

    with pytest.raises(EngineError) as caught:
        store.find_engine(bundle, "encoder", FULL, H200)

    assert str(caught.value) == (
        f"{bundle.path}: no engine of graph encoder for NVIDIA H200 (sm90) and tensorrt 10.13.3.9 "
        f"(there is one {reason}): tallformer engine build {bundle.path}"
    )


def test_without_any_engine_the_message_says_how_to_build_one(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"no engine of graph encoder for .* 10\.13\.3\.9: tallformer engine build "):
        store.find_engine(bundle, "encoder", FULL, H200)


def test_engine_of_one_graph_is_not_taken_for_another(bundle: Bundle) -> None:
    write(bundle)

    with pytest.raises(EngineError, match="no engine of graph localizer"):
        store.find_engine(bundle, "localizer", FULL, H200)


def test_of_several_that_fit_the_one_built_last_is_used(bundle: Bundle) -> None:
    later = write(bundle, key_for(bundle, batch="4"))
    assert later.record is not None
    earlier = dataclasses.replace(later.record, key=key_for(bundle), built_at="2001-01-01T00:00:00+00:00").sealed()
    file = later.path.with_name(f"{earlier.key.stem}.json")
    file.write_bytes(earlier.content())

    assert store.find_engine(bundle, "encoder", FULL, H200).path == later.path
    assert len(store.stored_engines(bundle)) == 2


def test_engine_with_one_flipped_byte_is_refused(bundle: Bundle) -> None:
    stored = write(bundle)
    stored.path.write_bytes(bytes([ENGINE[0] ^ 1]) + ENGINE[1:])

    with pytest.raises(EngineError, match=r"was changed or damaged after it was built; build it again with --force"):
        store.find_engine(bundle, "encoder", FULL, H200).read()
    assert store.stored_as(bundle, key_for(bundle)) is None  # so that `engine build` builds it


def test_engine_that_came_with_a_bundle_is_refused_until_it_is_accepted(bundle: Bundle, cache: Path) -> None:
    stored = write(bundle)
    (cache / "engine-seal.key").unlink()  # as on the machine of someone else

    with pytest.raises(EngineError, match="one not built by you on this machine, and engines hold machine code"):
        store.find_engine(bundle, "encoder", FULL, H200)
    assert store.stored_as(bundle, key_for(bundle)) is None

    (again,) = store.stored_engines(bundle)
    store.accept_engine(again)
    assert store.find_engine(bundle, "encoder", FULL, H200).path == stored.path


def test_record_that_was_changed_loses_its_seal(bundle: Bundle) -> None:
    """Whoever could write both files could otherwise have any engine loaded."""
    stored = write(bundle)
    evil = b"other machine code"
    stored.path.write_bytes(evil)
    record = json.loads(stored.path.with_suffix(".json").read_text())
    record["engine_sha256"] = hashlib.sha256(evil).hexdigest()
    stored.path.with_suffix(".json").write_text(json.dumps(record))

    with pytest.raises(EngineError, match="not built by you"):
        store.find_engine(bundle, "encoder", FULL, H200)


def test_damaged_engine_cannot_be_accepted(bundle: Bundle, cache: Path) -> None:
    write(bundle).path.write_bytes(b"")
    (cache / "engine-seal.key").unlink()

    with pytest.raises(EngineError, match="was changed or damaged"):
        store.accept_engine(store.stored_engines(bundle)[0])


@pytest.mark.skipif(os.name != "posix", reason="needs the permissions of POSIX")
def test_secret_can_be_read_by_its_user_only(bundle: Bundle, cache: Path) -> None:
    write(bundle)

    assert stat.S_IMODE((cache / "engine-seal.key").stat().st_mode) == 0o600


def test_damaged_secret_is_made_anew(bundle: Bundle, cache: Path) -> None:
    write(bundle)
    (cache / "engine-seal.key").write_bytes(b"short")

    assert [stored.record.is_own for stored in store.stored_engines(bundle) if stored.record] == [False]
    write(bundle)
    assert store.find_engine(bundle, "encoder", FULL, H200).read() == ENGINE


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is not the record of an engine"),
        (b"[]", "is not the record of an engine"),
        (b'{"version": 1}', "is a record of version 1, this tallformer reads 2"),
        (b'{"version": 2}', "engine.key: missing"),
    ],
)
def test_record_that_cannot_be_read_is_listed_with_the_reason(bundle: Bundle, content: bytes, problem: str) -> None:
    stored = write(bundle)
    stored.path.with_suffix(".json").write_bytes(content)

    (found,) = store.stored_engines(bundle)

    assert (found.record, found.damage) == (None, problem)
    with pytest.raises(EngineError, match=problem):
        found.read()


def test_record_under_another_name_is_no_engine(bundle: Bundle) -> None:
    stored = write(bundle)
    for suffix in (".json", ".engine"):
        stored.path.with_suffix(suffix).rename(stored.path.with_name(f"other{suffix}"))

    (found,) = store.stored_engines(bundle)

    assert found.damage == "is the record of another engine than its name says"


def test_engine_without_its_record_is_not_there(bundle: Bundle) -> None:
    write(bundle).path.with_suffix(".json").unlink()

    assert store.stored_engines(bundle) == []


def test_writing_that_is_stopped_leaves_no_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the engine and its record, where an older engine of the same key was."""
    write(bundle)
    real = store.write_whole

    def stop_at_the_record(out: Path, content: bytes) -> None:
        if out.suffix == ".json":
            raise KeyboardInterrupt
        real(out, content)

    monkeypatch.setattr(store, "write_whole", stop_at_the_record)
    with pytest.raises(KeyboardInterrupt):
        write(bundle, content=b"newer")

    assert list((bundle.path / "engines").iterdir()) == []


def test_engines_of_a_bundle_that_is_installed_lie_in_the_cache(cache: Path) -> None:
    bundle = load_bundle()

    stored = write(bundle)

    assert stored.path.parent == cache / "engines"
    assert not (bundle.path / "engines").exists()
    assert store.find_engine(bundle, "encoder", FULL, H200) == stored


def test_engines_of_a_zip_lie_in_the_cache(bundle: Bundle, cache: Path) -> None:
    archive = load_bundle(shutil.make_archive(str(bundle.path), "zip", bundle.path))

    assert write(archive).path.parent == cache / "engines"
    assert store.find_engine(archive, "encoder", FULL, H200).read() == ENGINE


def test_engines_of_a_bundle_that_cannot_have_a_folder_for_them_lie_in_the_cache(bundle: Bundle, cache: Path) -> None:
    (bundle.path / "engines").write_text("no folder")

    assert store.folder_to_write(bundle) == cache / "engines"


def test_engines_of_other_bundles_in_the_cache_are_not_listed(bundle: Bundle) -> None:
    other = dataclasses.replace(key_for(load_bundle()), graph_sha256="1" * 64)
    write(load_bundle(), other)

    assert store.stored_engines(load_bundle()) == []


def test_timing_cache_is_kept_per_gpu_and_library_in_the_users_cache(bundle: Bundle, cache: Path) -> None:
    key = key_for(bundle)

    assert store.read_timing_cache(key) is None
    store.write_timing_cache(key, b"measured")

    assert store.read_timing_cache(dataclasses.replace(key, graph="localizer", graph_sha256="2" * 64)) == b"measured"
    assert store.read_timing_cache(dataclasses.replace(key, target="sm89")) is None
    assert next((cache / "engines").iterdir()).name == (f"timing_sm90_tensorrt-10.13.3.9_{platform_name()}.cache")


def test_engine_of_a_graph_that_the_bundle_lacks_cannot_be_asked_for(bundle: Bundle) -> None:
    without = dataclasses.replace(bundle.description, graphs={"localizer": bundle.graphs["localizer"]})

    with pytest.raises(BundleError, match="bundle has no graph 'encoder'; it has localizer"):
        key_for(dataclasses.replace(bundle, description=without))


def test_what_is_not_known_of_the_machine_is_left_out_of_the_judgement(bundle: Bundle) -> None:
    record = write(bundle).record
    assert record is not None

    assert misfit(record, bundle, None, None) is None
    assert misfit(record, bundle, FULL, None) is None
    assert misfit(record, bundle, None, 86) == "made for sm90, the GPU here is sm86"

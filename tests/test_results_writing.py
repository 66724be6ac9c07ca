"""A document reaches the disk whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tallformer_infer.errors import OutputError
from tallformer_infer.results import check_destination, write_document

BEFORE = b'{"before": true}'


@pytest.fixture
def out(tmp_path):
    return tmp_path / "actions.json"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_document_is_read_back_as_it_was(out):
    document = {"label": "Drehung «links» 左", "segment": [0.25, 1.5], "nothing": None}

    write_document(document, out)

    assert json.loads(out.read_text(encoding="utf-8")) == document
    assert "左" in out.read_text(encoding="utf-8")
    assert names(out.parent) == ["actions.json"]


def test_file_name_that_is_not_utf8_survives(out):
    path = os.fsdecode(b"caf\xe9.mp4")

    write_document({"path": path}, out)

    assert json.loads(out.read_bytes())["path"] == path


def test_existing_file_is_replaced(out):
    out.write_bytes(BEFORE)

    write_document({"after": 1}, out)

    assert json.loads(out.read_bytes()) == {"after": 1}


def test_link_is_written_through(out):
    link = out.parent / "link.json"
    out.write_bytes(BEFORE)
    link.symlink_to(out.name)

    write_document({"after": 1}, link)

    assert link.is_symlink()
    assert json.loads(out.read_bytes()) == {"after": 1}


def test_new_file_has_the_permissions_of_the_umask(out):
    before = os.umask(0o027)
    try:
        write_document({}, out)
    finally:
        os.umask(before)

    assert stat.S_IMODE(out.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_stop_while_writing_leaves_the_old_file_and_no_other(out, monkeypatch, error):
    def stop(_descriptor):
        raise error

    out.write_bytes(BEFORE)
    monkeypatch.setattr(os, "fsync", stop)

    with pytest.raises((KeyboardInterrupt, OutputError)):
        write_document({"after": 1}, out)

    assert out.read_bytes() == BEFORE
    assert names(out.parent) == ["actions.json"]


def test_reader_never_sees_a_part(out):
    """Read while another process writes a large document again and again."""
    program = (
        "import sys; from pathlib import Path; from tallformer_infer.results import write_document\n"
        "while True: write_document({'rows': list(range(50_000))}, Path(sys.argv[1]))"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(out)])
    try:
        wait_for(out.exists)
        sizes = {len(json.loads(out.read_bytes())["rows"]) for _ in range(50)}
    finally:
        writer.kill()
        writer.wait()

    assert sizes == {50_000}


def test_full_disk_is_one_line_that_names_the_file(out, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OutputError, match=r"actions\.json: cannot be written: No space left on device"):
        write_document({}, out)


def test_pipe_is_written_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()

    check_destination(pipe)
    write_document({"after": 1}, pipe)
    reader.join(10)

    assert json.loads(read[0]) == {"after": 1}
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_dash_is_stdout(capfdbinary):
    check_destination(Path("-"))
    write_document({"after": "é"}, Path("-"))

    assert json.loads(capfdbinary.readouterr().out) == {"after": "é"}


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_stdout_on_a_full_disk_is_an_output_error():
    program = (
        "from pathlib import Path; from tallformer_infer.results import write_document\nwrite_document({}, Path('-'))"
    )

    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert "OutputError: standard output: cannot be written: No space left on device" in run.stderr


def test_closed_stdout_is_refused_before_the_work_and_after_it(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(OutputError, match="standard output: is closed"):
        check_destination(Path("-"))
    with pytest.raises(OutputError, match="standard output: is closed"):
        write_document({}, Path("-"))


def test_not_a_number_is_refused_before_the_file_is_touched(out):
    out.write_bytes(BEFORE)

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_document({"score": float("nan")}, out)

    assert out.read_bytes() == BEFORE


def test_destination_in_an_existing_folder_is_accepted_and_leaves_no_trace(out):
    check_destination(out)

    assert names(out.parent) == []


def test_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"is a folder; name a file in it, for example .*actions\.json"):
        check_destination(tmp_path)


def test_folder_is_refused_with_a_name_that_would_do(tmp_path):
    with pytest.raises(OutputError, match=r"for example .*model\.zip"):
        check_destination(tmp_path, example="model.zip")


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"there is no folder .*missing; make it first: mkdir -p .*missing"):
        check_destination(tmp_path / "missing" / "actions.json")


def test_file_in_place_of_the_folder_is_refused(out):
    out.write_bytes(BEFORE)

    with pytest.raises(OutputError, match=r"actions\.json is not a folder"):
        check_destination(out / "more.json")


def test_name_that_the_file_system_refuses_is_refused(tmp_path):
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        check_destination(tmp_path / ("x" * 300))


def test_what_the_run_reads_is_refused_by_whatever_name(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"frames")
    (tmp_path / "link").symlink_to(video)

    with pytest.raises(OutputError, match="link: is what this run reads; name another file to write"):
        check_destination(tmp_path / "link", inputs=["http://host/b.mp4", str(video)])

    assert video.read_bytes() == b"frames"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            check_destination(tmp_path / "actions.json")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which nobody can write")
def test_folder_in_which_nobody_can_write_is_refused():
    with pytest.raises(OutputError, match=r"/proc/actions\.json: cannot be written"):
        check_destination(Path("/proc/actions.json"))


def wait_for(condition, *, limit_s=20.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)

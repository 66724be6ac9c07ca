"""`tallformer detect --server`: what it sends, what it writes, and what it says when a server refuses."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import jsonschema
import pytest
import uvicorn

from tallformer_infer import cli
from tallformer_infer.bundle import load_bundle
from tallformer_infer.commands import remote
from tallformer_infer.errors import AnnotationError
from tallformer_infer.results import Selection, actions_document, load_schema, results_of_document
from tallformer_infer.serve import ServerOptions, create_app
from tallformer_infer.serve.driver import DriverOptions
from tests.result_samples import action, result
from tests.small_bundle import write_bundle
from tests.videos import noise_pictures, write_video

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGINT, and messages of POSIX")

TOKEN = "a-token-of-length"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "small")


@contextlib.contextmanager
def serving(bundle: Path, data: Path, *, most_bytes: int = 1 << 30, **changes: Any) -> Iterator[str]:
    """A real server in a thread; gives its address."""
    driver = DriverOptions(data=data, device="cpu", workers=1, threads=1, store_bytes=1 << 30, most_bytes=most_bytes)
    app = create_app(load_bundle(str(bundle)), ServerOptions(driver=driver, grace_s=0.0, **changes))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(bundle, tmp_path_factory.mktemp("data")) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with two videos of 20 s, shorter than a window."""
    for name, seed in (("a.mp4", 0), ("b.mp4", 1)):
        write_video(tmp_path / name, noise_pictures(40, height_px=48, width_px=64, seed=seed), fps=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def detect(*arguments: object) -> int:
    return cli.run(["detect", *map(str, arguments)])


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(load_schema()).validate(document)
    return document


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    videos = [{**video, "timings_s": None} for video in document["videos"]]
    return {**document, "videos": videos, "runtime": None}


def test_a_server_gives_the_document_of_a_local_run(folder: Path, bundle: Path, server: str) -> None:
    options = ("a.mp4", "b.mp4", "--threshold", 0.3, "--top-k", 1, "--classes", "jump,wave")

    assert detect(*options, "--server", server, "--out", "remote.json") == 0

    assert detect(*options, "--model", bundle, "--device", "cpu", "--out", "local.json") == 0
    there, here = read(folder / "remote.json"), read(folder / "local.json")
    assert [len(video["actions"]) for video in there["videos"]] == [1, 1]
    for video, other in zip(there["videos"], here["videos"], strict=True):
        for action_, known in zip(video["actions"], other.pop("actions"), strict=True):
            assert action_["label"] == known["label"]
            # the server's archive keeps features in float16
            assert action_["score"] == pytest.approx(known["score"], abs=1e-3)
            assert action_["segment"] == pytest.approx(known["segment"], abs=0.01)
        video.pop("actions")
    assert without_times(there) == without_times(here)


def test_the_table_and_other_formats_come_from_the_server_too(
    folder: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("a.mp4", "--server", server) == 0
    shown = capsys.readouterr()
    assert detect("a.mp4", "--server", server, "--out", "a.srt") == 0

    assert re.search(r"0:01\.00\s+0:03\.00\s+2\.00 s\s+wave\s+0\.900", shown.out)
    assert f"model small on {server}" in shown.err
    assert "wave" in (folder / "a.srt").read_text()


def test_standard_input_is_sent(folder: Path, server: str) -> None:
    command = [sys.executable, "-m", "tallformer_infer", "detect", "-", "--server", server, "-o", "-"]

    with (folder / "a.mp4").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)

    (video,) = json.loads(done.stdout)["videos"]
    assert (video["path"], len(video["actions"])) == ("-", 3)


def test_a_failed_job_is_one_line_and_the_other_video_is_written(
    folder: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad").mkdir()
    (folder / "bad" / "c.mp4").write_bytes(b"not a video")

    assert detect("bad/c.mp4", "b.mp4", "--server", server, "-o", "x.json", "--quiet") == 1

    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("tallformer: error: bad/c.mp4: ")
    assert second == "tallformer: 1 of 2 videos failed"
    document = read(folder / "x.json")
    assert [video["path"] for video in document["videos"]] == ["b.mp4"]
    assert document["failures"][0]["path"] == "bad/c.mp4"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("tallformer: error: ")


def test_no_server_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert detect("a.mp4", "--server", "http://127.0.0.1:9") == 1

    assert re.fullmatch(r"http://127\.0\.0\.1:9: no server answers there: .*Connection refused", said(capsys))


def test_the_token_is_asked_for_checked_and_taken_from_the_environment(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TALLFORMER_TOKEN", raising=False)
    with serving(bundle, folder / "data", token=TOKEN) as url:
        assert detect("a.mp4", "--server", url) == 1
        assert said(capsys) == f"{url}: the server wants a token: give --token, or set TALLFORMER_TOKEN"
        assert detect("a.mp4", "--server", url, "--token", "another-token") == 1
        assert said(capsys) == f"{url}: the server has another token"
        monkeypatch.setenv("TALLFORMER_TOKEN", TOKEN)
        assert detect("a.mp4", "--server", url, "-o", "x.json") == 0


def test_too_large_a_video_is_one_line(folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "large.mp4").write_bytes(bytes(8 << 20))
    with serving(bundle, folder / "data", most_bytes=1_000_000) as url:
        assert detect("large.mp4", "--server", url, "--quiet") == 1

    assert said(capsys) == f"large.mp4: {url}: larger than the 0.001 GB allowed here"


def test_videos_wait_for_jobs_of_their_own_run_where_the_queue_is_short(folder: Path, bundle: Path) -> None:
    with serving(bundle, folder / "data", most_waiting=1) as url:
        assert detect("a.mp4", "b.mp4", "--server", url, "-o", "x.json") == 0

    assert [len(video["actions"]) for video in read(folder / "x.json")["videos"]] == [3, 3]


def test_a_full_queue_says_when_to_come_again(folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(bundle, folder / "data", most_waiting=1) as url:
        long = noise_pictures(400, height_px=240, width_px=320)
        httpx.post(f"{url}/v1/uploads", content=write_video(folder / "long.mp4", long, fps=2).read_bytes())
        assert detect("a.mp4", "--server", url, "--quiet") == 1

    assert said(capsys) == f"a.mp4: {url}: too many unfinished jobs; try again in 10 s"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--server", "http://x", "--device", "cpu"), "--device does not go with --server, which decides it"),
        (("--server", "http://x", "--model", "demo"), "--model does not go with --server"),
        (("--server", "http://x", "--stream", "1"), "--stream does not go with --server"),
        (("--token", "abc"), "--token is for --server URL"),
        (("--server", "127.0.0.1:8080"), "expected http:// or https:// without a user name"),
        (("--server", "http://me:secret@x"), "expected http:// or https:// without a user name"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    folder: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("a.mp4", *arguments) == 2

    shown = capsys.readouterr().err
    assert message in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", "wav"), "did you mean 'wave'"),
        (("--operating-point", "max-f1"), "operating point 'max-f1': the server's model small has none"),
    ],
)
def test_options_that_do_not_fit_the_model_of_the_server_are_refused(
    folder: Path, server: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("a.mp4", "--server", server, *arguments) == 2

    assert message in capsys.readouterr().err


class _Other(http.server.BaseHTTPRequestHandler):
    """Another server: it leads elsewhere, or answers with a page. Notes what it is asked."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(302 if self.path.startswith("/moved") else 200)
        self.send_header("Location", "https://elsewhere.example/v1/models")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def other() -> Iterator[str]:
    _Other.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Other) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_what_is_no_server_of_ours_is_one_line(folder: Path, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert detect("a.mp4", "--server", other) == 1
    assert said(capsys) == f"{other}: its answer is not JSON; expected a `tallformer serve`"
    assert detect("a.mp4", "--server", f"{other}/moved") == 1

    redirected = f"{other}/moved: answers 302; the server is at https://elsewhere.example/v1/models"
    assert said(capsys) == redirected


def test_proxy_variables_are_not_read(folder: Path, server: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, other)

    assert detect("a.mp4", "--server", server, "-o", "x.json") == 0

    assert _Other.asked == []


def test_the_missing_extra_is_named(folder: Path) -> None:
    program = (
        "import sys; sys.modules['httpx'] = None\n"
        "from tallformer_infer import cli; sys.exit(cli.run(['detect', 'a.mp4', '--server', 'http://x']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "--server needs the extra 'serve' (httpx is not installed): " in done.stderr


def test_ctrl_c_cancels_the_jobs(folder: Path, bundle: Path) -> None:
    write_video(folder / "long.mp4", noise_pictures(600, height_px=240, width_px=320, seed=2), fps=1)
    with serving(bundle, folder / "data", token=TOKEN) as url, httpx.Client(base_url=url, auth=("", TOKEN)) as client:
        command = [sys.executable, "-m", "tallformer_infer", "detect", "long.mp4", "a.mp4", "--server", url]
        with subprocess.Popen([*command, "--token", TOKEN], stderr=subprocess.PIPE, text=True) as run:
            while len(client.get("/v1/jobs").json()) < 2:
                assert run.poll() is None
                time.sleep(0.02)
            run.send_signal(signal.SIGINT)
            _, shown = run.communicate()
        jobs = client.get("/v1/jobs").json()

    assert run.returncode == 130
    assert "stopped; to resume, run the same command again" in shown
    assert {job["name"]: job["state"] for job in jobs} == {"long.mp4": "cancelled", "a.mp4": "cancelled"}


def test_the_token_is_not_said_again_in_the_command_for_the_rest(folder: Path, bundle: Path) -> None:
    with serving(bundle, folder / "data", token=TOKEN) as url, httpx.Client(base_url=url, auth=("", TOKEN)) as client:
        command = [sys.executable, "-m", "tallformer_infer", "detect", "a.mp4", "-", "--server", url, "-o", "x.json"]
        run = subprocess.Popen(
            [*command, "--token", TOKEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with run:
            while not [job for job in client.get("/v1/jobs").json() if job["state"] == "done"]:
                assert run.poll() is None
                time.sleep(0.1)
            time.sleep(1)  # the client asks three times a second
            run.send_signal(signal.SIGINT)
            _, shown = run.communicate()

    assert "finished videos are in x.partial.json" in shown
    assert f"detect --server {url} --out x.rest.json -" in shown
    assert TOKEN not in shown
    assert [video["path"] for video in read(folder / "x.partial.json")["videos"]] == ["a.mp4"]


def test_a_server_that_is_gone_for_a_moment_is_waited_for(
    folder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = iter([True, True])
    ask = remote._Server.job

    def answer(server: remote._Server, job_id: str) -> dict[str, Any]:
        if next(gone, False):
            raise remote._UnreachableError("gone")
        return ask(server, job_id)

    monkeypatch.setattr(remote._Server, "job", answer)

    assert detect("a.mp4", "--server", server, "-o", "x.json") == 0


def test_the_python_of_the_documentation_runs(folder: Path, root: Path, server: str) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "serve.md").read_text(), re.DOTALL)
    (folder / "a.mp4").rename(folder / "match.mp4")
    program = program.replace("http://127.0.0.1:8080", server)

    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)

    labels = [line.rpartition("] ")[2].rpartition(" ")[0] for line in done.stdout.splitlines()]
    assert labels == ["wave", "sit, then stand", "jump"]


def test_a_document_can_be_read_back() -> None:
    selection = Selection(threshold=0.5, classes=("wave",), operating_point="max-f1")
    results = [result("a.mp4", (action(1, 2), action(2, 3.5, "jump")), selection=selection)]
    document = actions_document(results, selection=selection)

    assert actions_document(results_of_document(document)) == document


def test_a_document_of_another_version_is_refused() -> None:
    with pytest.raises(AnnotationError, match=r"schema_version 2.0; expected 1\."):
        results_of_document({"schema_version": "2.0"})

"""Which addresses are read: protocols, chains, and what lists at addresses may name."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tallformer_infer import cli
from tallformer_infer.archive.sources import find_sources
from tallformer_infer.errors import ArchiveError, MediaError
from tallformer_infer.media.byte_sources import RemoteBytes, file_system, version_of_address
from tallformer_infer.media.web import (
    ALLOWED_PROTOCOLS,
    WebBytes,
    check_foreign,
    check_protocol,
    public_addresses,
    version_on_web,
)
from tests.web_server import Site, serve

NOT_PUBLIC = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0.0.0.0",
    "10.0.0.8",
    "172.16.3.4",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[2002:7f00:1::]",
    "localhost",
]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost,videos.example")
    with serve() as running:
        yield running


@pytest.fixture
def fsspec_calls(monkeypatch):
    """Every address that reaches fsspec; none does anything there."""
    core = pytest.importorskip("fsspec").core
    calls: list[str] = []

    def note(address):
        calls.append(address)
        raise OSError("not in this test")

    monkeypatch.setattr(core, "url_to_fs", note)
    return calls


@pytest.mark.parametrize(
    "address",
    [
        "reference::https://host/x.json",
        "simplecache::s3://bucket/x.mp4",
        "zip://a.mp4::https://host/x.zip",
        "zip::file:///etc/x.zip",
        "s3://bucket/x.mp4::https://host/y",
        "https://host/x::file:///etc/passwd",
        "github://org:repo@main/x.mp4",
        "ftp://host/x.mp4",
        "sftp://host/x.mp4",
        "ssh://host/x.mp4",
        "smb://host/x.mp4",
        "memory://x.mp4",
        "data://x",
        "hf://datasets/x",
        "generic://x",
        "arrow_hdfs://x",
        "Reference://x",
    ],
)
@pytest.mark.parametrize("kind", ["argument", ".txt", ".csv", ".jsonl"])
def test_chains_and_protocols_that_were_not_allowed_never_reach_fsspec(tmp_path, fsspec_calls, address, kind):
    given = address
    if kind != "argument":
        lines = {".txt": address, ".csv": f"path\n{address}", ".jsonl": f'"{address}"'}
        given = tmp_path / f"list{kind}"
        given.write_text(lines[kind] + "\n")

    with pytest.raises(
        ArchiveError, match=r"(chains of protocols \(::\) are not read|is not allowed; expected az, file)"
    ):
        find_sources([str(given)])
    for read in (file_system, RemoteBytes):
        if not address.startswith("https:"):
            with pytest.raises(MediaError):
                read(address)

    assert fsspec_calls == []


def test_reference_file_in_a_list_runs_nothing(tmp_path, site, capsys):
    """With fsspec before 2026.6 and jinja2 this ran a command while sources were being listed."""
    pytest.importorskip("fsspec")
    marker = tmp_path / "ran"
    template = "{{ cycler.__init__.__globals__.os.popen('touch " + str(marker) + "').read() }}"
    refs = {"version": 1, "templates": {"u": template}, "refs": {"a.mp4": ["{{u}}"]}}
    site.files["/x.json"] = json.dumps(refs).encode()
    manifest = tmp_path / "list.txt"
    manifest.write_text(f"reference::{site.address}/x.json\n")

    code = cli.run(["label", str(manifest), "--out", str(tmp_path / "out")])

    said = capsys.readouterr().err
    assert (code, said.count("\n"), site.hits, marker.exists()) == (1, 1, [], False)


def test_protocol_that_is_allowed_is_used_and_a_chain_of_it_is_not(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe_file("/addresses/a.mp4", b"x")

    found = find_sources(["memory://addresses"], protocols=[*ALLOWED_PROTOCOLS, "memory"])

    assert [one.source for one in found] == ["memory:///addresses/a.mp4"]
    with pytest.raises(ArchiveError, match="chains of protocols"):
        find_sources(["simplecache::memory://addresses"], protocols=[*ALLOWED_PROTOCOLS, "memory", "simplecache"])


def test_other_names_of_an_allowed_protocol_are_allowed():
    for address in (
        "s3a://b/x",
        "gcs://b/x",
        "abfs://b/x",
        "abfss://b/x",
        "local:///x",
        "HTTPS://h/x",
        "http://[::1]/x",
    ):
        check_protocol(address)
    check_protocol("gcs://b/x", ["gs"])
    check_protocol("gs://b/x", ["gcs"])


@pytest.mark.parametrize("host", NOT_PUBLIC)
def test_list_at_an_address_names_no_host_that_only_this_machine_reaches(host):
    with pytest.raises(MediaError, match="which is not public"):
        check_foreign(f"http://{host}:8080/latest/meta-data")


@pytest.mark.parametrize("address", ["file:///etc/passwd", "local:///etc/passwd", "FILE://x", "http:///x", "http://["])
def test_list_at_an_address_names_no_file(address):
    with pytest.raises(MediaError):
        check_foreign(address)


def test_public_hosts_and_buckets_may_be_named(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("93.184.215.14", 443))])

    for address in ("https://videos.example/a.mp4", "s3://bucket/a.mp4", "gs://bucket/a.mp4", "az://bucket/a.mp4"):
        check_foreign(address)


def test_one_address_of_many_that_is_not_public_is_enough(monkeypatch):
    answers = [(socket.AF_INET, 1, 6, "", (address, 443)) for address in ("93.184.215.14", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    with pytest.raises(PermissionError, match=r"host videos\.example is at 127\.0\.0\.1"):
        public_addresses("videos.example", 443)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "file:///etc/hostname\n"),
        ("list.csv", "path\nfile:///etc/hostname\n"),
        ("list.jsonl", '{"path": "file:///etc/hostname"}\n'),
        ("list.txt", "local:///etc/hostname\n"),
        ("list.txt", "http://169.254.169.254/latest/meta-data\n"),
        ("list.txt", "http://127.0.0.1:1/a.mp4\n"),
        ("list.txt", "http://localhost:1/a.mp4\n"),
        ("list.txt", "file:/etc/hostname\n"),
        ("list.txt", "more.txt\n"),  # on this machine, too
    ],
)
def test_list_at_an_address_cannot_make_us_read_what_is_ours(site, name, content):
    site.files[f"/{name}"] = content.encode()
    site.files["/more.txt"] = b"a.mp4\n"

    with pytest.raises(ArchiveError, match=r"(may not name files of this machine|which is not public)") as caught:
        find_sources([f"{site.address}/{name}"])

    assert "\n" not in str(caught.value)
    assert site.hits == [f"/{name}"]


def test_list_on_this_machine_may_name_everything(tmp_path, site):
    pytest.importorskip("fsspec")
    (tmp_path / "a.mp4").write_bytes(b"x")
    manifest = tmp_path / "list.txt"
    manifest.write_text(f"a.mp4\nfile://{tmp_path}/a.mp4\n{site.address}/b.mp4\n")

    assert [one.name for one in find_sources([str(manifest)])] == ["a.mp4", "a.mp4", "b.mp4"]
    assert [one.is_foreign for one in find_sources([f"file://{manifest}"])] == [False, False]


def test_list_at_an_address_names_what_lies_beside_it(monkeypatch, site):
    make_public(monkeypatch)
    site.files["/d/list.csv?key=1"] = (
        b"path\na.mp4\n/b.mp4\n//evil.example/c.mp4\n../e.mp4\nhttps://videos.example/f.mp4\n"
    )

    found = find_sources([f"{site.address}/d/list.csv?key=1"])

    host = site.address
    assert [one.source for one in found] == [
        f"{host}/d/a.mp4",
        f"{host}/b.mp4",
        f"{host}/evil.example/c.mp4",
        f"{host}/e.mp4",
        "https://videos.example/f.mp4",
    ]
    assert all(one.is_foreign for one in found)


def make_public(monkeypatch):
    """Take every host for a public one."""
    monkeypatch.setattr("tallformer_infer.media.web._is_public", lambda _: True)
    look_up = socket.getaddrinfo
    own = ("127.0.0.1", "localhost")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: look_up(host if host in own else "127.0.0.1", *rest, **more)
    )


def test_entry_of_a_list_in_a_bucket_stays_in_the_bucket(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr("tallformer_infer.media.web._WITHOUT_HOST", {"memory"})
    fsspec.filesystem("memory").pipe_file("/box/lists/list.txt", b"a.mp4\n../b.mp4\n../../../../c.mp4\n/d.mp4\n")

    found = find_sources(["memory://box/lists/list.txt"], protocols=["memory"])

    assert [one.source for one in found] == [
        "memory://box/lists/a.mp4",
        "memory://box/b.mp4",
        "memory://box/c.mp4",
        "memory://box/d.mp4",
    ]


@pytest.mark.parametrize("line", ["list.txt", "./list.txt", "other.txt", "link.txt"])
def test_list_that_names_itself_is_refused(tmp_path, line, capsys):
    (tmp_path / "list.txt").write_text(f"{line}\n")
    (tmp_path / "other.txt").write_text("list.txt\n")
    (tmp_path / "link.txt").symlink_to(tmp_path / "list.txt")

    with pytest.raises(ArchiveError, match=r"\.txt: a list that includes itself$"):
        find_sources([str(tmp_path / "list.txt")])
    assert cli.run(["label", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_list_at_an_address_that_names_itself_or_ever_new_ones_is_refused(monkeypatch, site):
    make_public(monkeypatch)
    site.files["/list.txt"] = b"list.txt\n"
    for number in range(20):
        site.files[f"/{number}.txt"] = b"%d.txt\n" % (number + 1)

    with pytest.raises(ArchiveError, match="a list that includes itself"):
        find_sources([f"{site.address}/list.txt"])
    with pytest.raises(ArchiveError, match="lists in lists, 8 deep"):
        find_sources([f"{site.address}/0.txt"])


def test_list_named_twice_is_no_list_that_names_itself(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "inner.txt").write_text("a.mp4\n")
    (tmp_path / "outer.txt").write_text("inner.txt\ninner.txt\n")

    assert [one.name for one in find_sources([str(tmp_path / "outer.txt")])] == ["a.mp4"]


def test_list_at_an_address_that_never_ends_is_refused(monkeypatch, site):
    monkeypatch.setattr("tallformer_infer.archive.sources.MAX_REMOTE_BYTES", 1000)
    site.files["/list.txt"] = b"a.mp4\n" * 1000

    with pytest.raises(ArchiveError, match="a list of more than"):
        find_sources([f"{site.address}/list.txt"])


def test_host_is_looked_up_again_for_each_connection_and_asked_at_the_address_that_was_checked(site):
    """A name that answers differently the second time gains nothing."""
    site.files["/a.mp4"] = b"secret"
    local = site.address.replace("127.0.0.1", "localhost")

    for address in (site.address, local):
        with pytest.raises(MediaError, match="which is not public"):
            WebBytes(f"{address}/a.mp4", only_public=True)
        with pytest.raises(MediaError, match="which is not public"):
            version_on_web(f"{address}/a.mp4", only_public=True)
        with pytest.raises(MediaError, match="which is not public"):
            version_of_address(f"{address}/a.mp4", only_public=True)
    assert site.hits == []


def test_public_host_is_read(monkeypatch, site):
    make_public(monkeypatch)
    site.files["/a.mp4"] = b"public"
    address = site.address.replace("127.0.0.1", "videos.example")

    assert WebBytes(f"{address}/a.mp4", only_public=True).read(10) == b"public"
    assert version_on_web(f"{address}/a.mp4", only_public=True).size == 6

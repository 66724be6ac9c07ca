"""`tallformer serve`: an HTTP API and a page."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tallformer_infer.commands import options

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_ACCESS, _WORK, _STUDIO = "Who may do what", "How jobs are done", "Label Studio"


@app.command()
def serve(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder for jobs, uploads and results.")] = Path(
        "tallformer-data"
    ),
    model: options.Model = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; any but loopback needs --token.", rich_help_panel=_ACCESS
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 takes a free one.", rich_help_panel=_ACCESS)
    ] = 8080,
    token: Annotated[
        str | None,
        options.token_option("Token that clients must send.", _ACCESS),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Clients may name files below this folder.", rich_help_panel=_ACCESS),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="Clients may name http(s) addresses there; repeatable.", rich_help_panel=_ACCESS
        ),
    ] = None,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private", help="Allowed hosts may have private or loopback addresses.", rich_help_panel=_ACCESS
        ),
    ] = False,
    max_upload_gb: Annotated[
        float, typer.Option(min=0.001, metavar="GB", help="Largest video.", rich_help_panel=_ACCESS)
    ] = 16.0,
    max_queue: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most unfinished jobs; more get 429.", rich_help_panel=_ACCESS)
    ] = 1000,
    device: options.Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Worker processes (default: by cores and memory).", rich_help_panel=_WORK
        ),
    ] = None,
    store_gb: Annotated[
        float, typer.Option(min=0, metavar="GB", help="Most stored features.", rich_help_panel=_WORK)
    ] = 20.0,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Time for running jobs at shutdown.", rich_help_panel=_WORK),
    ] = 30.0,
    label_studio: Annotated[
        bool,
        typer.Option(
            "--label-studio", help="Be a machine learning backend for Label Studio, too.", rich_help_panel=_STUDIO
        ),
    ] = False,
    label_map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=CLASS",
            help="Class of the model for a label of Label Studio with another name; repeatable.",
            rich_help_panel=_STUDIO,
        ),
    ] = None,
    retrain_after: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Train a model for a project after N corrected tasks (default: never).",
            rich_help_panel=_STUDIO,
        ),
    ] = None,
    retrain_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Training settings, as for `train --config` (default: those of `train`, with a frozen encoder).",
            rich_help_panel=_STUDIO,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line per request.")] = False,
) -> None:
    """Serve detection over HTTP, with a page to drop videos on.

    Jobs, uploads and results are kept in --data: they survive a crash, and
    identical files are processed once. The page is at /, the description of
    the API (OpenAPI) at /openapi.json.

    Exit code: 0 after Ctrl-C or SIGTERM; 1 it cannot start; 2 usage.

    [bold]Examples[/bold]

      tallformer serve
      tallformer serve --root /videos --data /srv/tallformer
      tallformer serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"
      tallformer serve --label-studio --root /srv/label-studio/media
    """
    if not label_studio and (label_map or retrain_after or retrain_config):
        raise typer.BadParameter("--label-map, --retrain-after and --retrain-config go with --label-studio")
    if retrain_config is not None and not retrain_config.is_file():
        raise typer.BadParameter(f"--retrain-config {retrain_config}: no such file")
    if token is None and not _is_loopback(host):
        raise typer.BadParameter(f"--host {host}: other machines can reach this address; name a --token")
    if token is not None and len(token) < 8:
        raise typer.BadParameter("--token: expected 8 characters or more")
    if root is not None and not root.is_dir():
        raise typer.BadParameter(f"--root {root}: no such folder")

    from tallformer_infer.stopping import import_interruptibly

    import_interruptibly("uvicorn")
    import_interruptibly("tallformer_infer.serve")

    import uvicorn

    from tallformer_infer.archive.processes import choose_threads, choose_workers
    from tallformer_infer.bundle import load_bundle
    from tallformer_infer.serve import DriverOptions, LabelStudioOptions, ServerOptions, create_app

    bundle = load_bundle(model)
    mapped = _label_map(label_map or (), bundle.recipe.classes)
    studio = LabelStudioOptions(label_map=mapped, retrain_after=retrain_after, training_config=retrain_config)
    count = choose_workers(bundle, videos=1 << 30, memory_bytes=None, workers=workers)
    server = ServerOptions(
        driver=DriverOptions(
            data=data.resolve(),
            device=device,
            workers=count,
            threads=choose_threads(count, None),
            store_bytes=int(store_gb * 1e9),
            allowed_hosts=tuple(allow_host or ()),
            allow_private=allow_private,
            most_bytes=int(max_upload_gb * 1e9),
        ),
        root=root,
        token=token,
        most_waiting=max_queue,
        grace_s=grace,
        label_studio=studio if label_studio else None,
    )
    config = uvicorn.Config(
        create_app(bundle, server),
        host=host,
        port=port,
        log_level="warning" if quiet else "info",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run()


def _label_map(given: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Class by label."""
    found = {}
    for text in given:
        label, equals, name = (part.strip() for part in text.rpartition("="))
        if not (label and equals and name):
            raise typer.BadParameter(f"--label-map {text}: expected LABEL=CLASS")
        if name not in known:
            raise typer.BadParameter(f"--label-map {text}: the model knows no class {name!r}; see `tallformer info`")
        found[label] = name
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

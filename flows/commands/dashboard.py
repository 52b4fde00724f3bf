"""dashboard: pages over all runs of a published index, as files or from a server on this machine."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import EnvironmentProblem, JournalError
from flows.commands import options
from flows.console import emit_json, say

if TYPE_CHECKING:
    from audit.report.embedding import Pictures

app = typer.Typer(help="Pages over all runs: a folder of files, or a server on this machine.", no_args_is_help=True)

Index = Annotated[
    str | None,
    typer.Option("--index", help="Folder or s3:// prefix of published copies (default: the root's own)."),
]
Root = Annotated[
    str | None,
    typer.Option(
        "--root",
        help="Storage root whose pictures are shown, blurred where sensitive; with --index alone there are stand-ins.",
        envvar="ERASURE_AUDIT_ROOT",
    ),
]
StaleDays = Annotated[
    int, typer.Option("--stale-days", min=1, max=3650, help="Days after which a system counts as stale.")
]


@app.command("build")
def build(
    folder: Annotated[Path, typer.Argument(help="Where the site goes: absent, empty, or an earlier build.")],
    index: Index = None,
    root: Root = None,
    database: options.Database = None,
    stale_days: StaleDays = 14,
    as_json: options.Json = False,
) -> None:
    """Write every page into FOLDER as a file: it needs no server, and can be archived."""
    from audit.dashboard import building
    from audit.index.copies import copies_at, open_copy

    target = Path(os.path.expanduser(folder))
    building.require_replaceable(target)
    path = copies_at(index, root, database).newest()
    con = open_copy(path)
    try:
        built = building.build(
            con,
            target,
            dt.datetime.now(dt.UTC).replace(microsecond=0),
            index=path.name,
            pictures=_pictures(index, root),
            stale_days=stale_days,
        )
    finally:
        con.close()
    if as_json:
        emit_json({"folder": str(built.folder), "pages": built.pages, "bytes": built.bytes, "index": str(path)})
    else:
        print(f"{built.folder / 'index.html'}: {built.pages} pages from {path.name}")


@app.command("serve")
def serve(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="TCP port.")] = 8321,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any other than loopback is reachable by others.")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Host name of a proxy by which browsers may ask; may be given several times."),
    ] = None,
    trust_proxy_user: Annotated[
        str | None,
        typer.Option("--trust-proxy-user", help="Header in which a proxy names the user, for the log."),
    ] = None,
    index: Index = None,
    root: Root = None,
    database: options.Database = None,
    stale_days: StaleDays = 14,
) -> None:
    """Answer browsers on this machine from the newest published copy, until Ctrl-C. Nobody is asked for a password."""
    from audit.dashboard.copies import Reader
    from audit.dashboard.serving import application, is_loopback, served_hosts
    from audit.index.copies import copies_at

    try:
        import uvicorn
    except ImportError:
        raise EnvironmentProblem(
            "the server's packages are not installed",
            where="dashboard serve",
            next_step="pip install 'erasure-audit[dashboard]', or write files with: erasure-audit dashboard build FOLDER",
        ) from None

    reader = Reader(copies_at(index, root, database))
    site = application(
        reader,
        served_hosts(host, name or ()),
        pictures=_pictures(index, root),
        stale_days=stale_days,
        user_header=trust_proxy_user,
    )
    _require_free(host, port)
    if not is_loopback(host):
        say(f"warning: {host} is not loopback: whoever reaches it reads every page, unless a proxy asks who they are")
    say(f"http://{f'[{host}]' if ':' in host else host}:{port}/ shows {reader.path.name}; stop it with Ctrl-C")
    uvicorn.run(site, host=host, port=port, log_level="warning", server_header=False, access_log=False)


def _pictures(index: str | None, root: str | None) -> Pictures | None:
    """Return where pictures come from; None for an index without a root. Raises `JournalError` for a root that cannot be read."""
    from audit.storage.journal import Journal
    from audit.storage.pictures import StoredPictures

    if index and not root:
        return None
    place = locations.storage_root(root)
    folder = locations.local_folder(place)
    if folder is not None and not folder.is_dir():
        raise JournalError(
            "there is no storage root here", where=place, next_step="correct --root, or leave it out for stand-ins"
        )
    journal = Journal(place)
    journal.store.entries("runs")
    return StoredPictures(journal)


def _require_free(host: str, port: int) -> None:
    """Return when nothing listens on a port. Raises `EnvironmentProblem`."""
    import socket

    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:1]:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise EnvironmentProblem(
            f"the server cannot listen there: {error.strerror or error}",
            where=f"{host}:{port}",
            next_step="name another port with --port",
        ) from None

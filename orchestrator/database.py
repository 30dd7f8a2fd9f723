"""The one border to asyncpg: a pool whose every use has a deadline, and whose failures come out as one error.

Whatever makes the database unusable (refused, restarting, too slow, out of connections) is a ``DatabaseUnavailable``;
a request answers it with 503, a loop with a pause. Statements stand in ``orchestrator.sql``.

The database may stand behind a connection pooler in transaction mode (PgBouncer and its kind): each transaction there
may be on another connection to Postgres, so nothing here outlives one. Prepared statements would: they are not kept
where a pooler is found. LISTEN does: it has a connection to Postgres itself, or is not used.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

import asyncpg

from orchestrator import origins, problems
from schema import database
from schema.database import DatabaseUnavailable

COMMAND_SECONDS: Final = 30.0
ACQUIRE_SECONDS: Final = 10.0
PLANNED_ONCE: Final = {"plan_cache_mode": "force_generic_plan", "jit": "off"}
"""Postgres would weigh values anew each time, and so spend longer on planning a statement than on running it. The plans
that hold for any values are the ones that are tested."""
STATEMENTS_KEPT: Final = 100
"""How many prepared statements a connection keeps."""
LISTEN_OFF: Final = "off"
"""Instead of a URL to listen at: there is none."""

# A lost connection is told by whoever met it; asyncpg's pool would tell it once more, with a stack trace.
logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)

Row: TypeAlias = asyncpg.Record
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Value: TypeAlias = Any
"""What a statement takes and gives: the statement knows its types, and asyncpg checks them when it runs."""

_UNAVAILABLE: Final = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TransactionRollbackError,  # a deadlock, or the like: nothing was changed, and trying again helps
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg's own confusion when an idle connection is told that the server stops
)


class Database:
    """A pool of connections to the database of all replicas."""

    def __init__(self, url: str, pool: asyncpg.Pool, listen_url: str | None, *, is_pooled: bool) -> None:
        self.url = url
        self.listen_url = listen_url
        """Where to listen; None where there is no such place."""
        self.is_pooled = is_pooled
        """A connection pooler stands before it."""
        self._pool = pool

    @staticmethod
    @asynccontextmanager
    async def open(
        url: str, *, connections_maximum: int, listen_url: str | None = None, name: str = "moonyard orchestrator"
    ) -> AsyncGenerator[Database]:
        """Connect.

        :param name: of who connects, as `pg_stat_activity` shows it.
        :param listen_url: where Postgres itself is reached, or ``LISTEN_OFF``; by default it is at ``url``, unless a
            pooler is found there.
        :raises DatabaseUnavailable: when it cannot be reached.
        """
        if listen_url is not None and listen_url != LISTEN_OFF:
            database.check_url(listen_url, "listen_url")
        with _errors(url):
            is_pooled = listen_url is not None or await _is_pooled(url)
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections_maximum,
                timeout=database.CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                # Nothing here changes a connection's settings, takes advisory locks or listens: undoing that at each
                # release would be one more round trip for each statement.
                reset=_keep,
                statement_cache_size=0 if is_pooled else STATEMENTS_KEPT,
                server_settings={"application_name": name} | ({} if is_pooled else PLANNED_ONCE),
            )
        try:
            direct = None if is_pooled and listen_url in {None, LISTEN_OFF} else listen_url or url
            yield Database(url, pool, direct, is_pooled=is_pooled)
        finally:
            # Its users have ended; a statement that hangs in one of them is not waited for.
            pool.terminate()

    async def rows(self, statement: str, *values: Value) -> list[Row]:
        """Run a statement in a transaction of its own and give its rows."""
        with _errors(self.url):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, _told(connection):
                return await connection.fetch(statement, *values)

    async def row(self, statement: str, *values: Value) -> Row | None:
        """Run a statement in a transaction of its own and give its first row."""
        with _errors(self.url):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, _told(connection):
                return await connection.fetchrow(statement, *values)

    async def value(self, statement: str, *values: Value) -> Value:
        """Run a statement in a transaction of its own and give its first row's first column."""
        row = await self.row(statement, *values)
        return None if row is None else row[0]

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Run statements in one transaction."""
        with _errors(self.url):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                address = origins.address.get()
                if address is not None:
                    await connection.execute(origins.TELL, address)
                yield connection

    @asynccontextmanager
    async def listener(self) -> AsyncGenerator[asyncpg.Connection]:
        """Open a connection to Postgres itself, to LISTEN on."""
        assert self.listen_url is not None, "whoever listens has asked whether that is possible"
        with _errors(self.listen_url):
            connection = await asyncpg.connect(
                self.listen_url,
                timeout=database.CONNECT_SECONDS,
                command_timeout=database.CONNECT_SECONDS,
                server_settings={"application_name": "moonyard orchestrator, listening"},
            )
            try:
                yield connection
            finally:
                connection.terminate()


async def _is_pooled(url: str) -> bool:
    """Find out whether a pooler stands before Postgres: it gives each client a process id of its own making."""
    connection = await asyncpg.connect(url, timeout=database.CONNECT_SECONDS, statement_cache_size=0)
    try:
        process: int = await connection.fetchval("SELECT pg_backend_pid()", timeout=database.CONNECT_SECONDS)
        return process != connection.get_server_pid()
    finally:
        await connection.close(timeout=database.CONNECT_SECONDS)


@asynccontextmanager
async def _told(connection: Connection) -> AsyncGenerator[None]:
    """Tell the transaction of a statement where its request comes from, if anything is known of that."""
    address = origins.address.get()
    if address is None:
        yield
        return
    async with connection.transaction():
        await connection.execute(origins.TELL, address)
        yield


async def _keep(_connection: object) -> None:
    """Leave a connection as it is."""


@contextmanager
def _errors(url: str) -> Generator[None]:
    try:
        yield
    except DatabaseUnavailable:
        raise
    except asyncpg.RaiseError as error:
        if error.detail:
            raise problems.refused(error) from error
        raise
    except _UNAVAILABLE as error:
        if isinstance(error, ValueError):  # a value that does not fit its statement: a defect, not an outage
            raise
        raise database.unavailable(url, error) from error

"""The one border to asyncpg: a pool whose every use has a deadline, and whose failures come out as one error.

Whatever makes the database unusable (refused, restarting, too slow, out of connections) is a ``DatabaseUnavailable``;
a request answers it with 503, a loop with a pause. Statements stand in ``orchestrator.sql``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

import asyncpg

from orchestrator import problems
from schema import database
from schema.database import DatabaseUnavailable

COMMAND_SECONDS: Final = 30.0
ACQUIRE_SECONDS: Final = 10.0

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

    def __init__(self, url: str, pool: asyncpg.Pool) -> None:
        self.url = url
        self._pool = pool

    @staticmethod
    @asynccontextmanager
    async def open(url: str, *, connections_maximum: int) -> AsyncGenerator[Database]:
        """Connect.

        :raises DatabaseUnavailable: when it cannot be reached.
        """
        with _errors(url):
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections_maximum,
                timeout=database.CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                # Nothing here changes a connection's settings, takes advisory locks or listens: undoing that at each
                # release would be one more round trip for each statement.
                reset=_keep,
                server_settings={"application_name": "moonyard orchestrator"},
            )
        try:
            yield Database(url, pool)
        finally:
            # Its users have ended; a statement that hangs in one of them is not waited for.
            pool.terminate()

    async def rows(self, statement: str, *values: Value) -> list[Row]:
        """Run a statement in a transaction of its own and give its rows."""
        with _errors(self.url):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                return await connection.fetch(statement, *values)

    async def row(self, statement: str, *values: Value) -> Row | None:
        """Run a statement in a transaction of its own and give its first row."""
        with _errors(self.url):
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
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
                yield connection

    @asynccontextmanager
    async def listener(self) -> AsyncGenerator[asyncpg.Connection]:
        """Open a connection beside the pool, to LISTEN on."""
        with _errors(self.url):
            connection = await asyncpg.connect(
                self.url,
                timeout=database.CONNECT_SECONDS,
                command_timeout=database.CONNECT_SECONDS,
                server_settings={"application_name": "moonyard orchestrator, listening"},
            )
            try:
                yield connection
            finally:
                connection.terminate()


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

"""Whether a database holds what Moonyard promises: its settings, its logins, its room, and what worries in it."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import anyio
import msgspec
from psycopg import conninfo

from orchestrator.database import LISTEN_OFF, Database
from orchestrator.settings import OrchestratorSettings
from orchestrator.sql import checkup as checkup_sql
from schema import database
from schema.errors import MoonyardError, single_error
from schema.findings import Finding, State, failed, listed

PART: Final = "database"
CLOCK_SECONDS: Final = 5.0
EXAMINE_SECONDS: Final = 30.0
ORCHESTRATOR_CONNECTIONS: Final = OrchestratorSettings(database_url="").connections_maximum + 1
"""Of its pool, and one that listens."""
PEOPLE_CONNECTIONS: Final = 3
"""For a migration, a psql and a backup."""
UNFROZEN_TRANSACTIONS_MAXIMUM: Final = 1_000_000_000
"""Postgres takes no writes any more at about two thousand million; autovacuum begins at 200 million."""
_SCRAM: Final = "scram-sha-256"
_CHECKED_CERTIFICATE: Final = {"verify-full", "verify-ca"}
_HEALTH: Final = {
    "orchestrators": ("Nobody hands out jobs.", "Start one: moonyard orchestrator."),
    "runners": ("Queued jobs wait until one comes.", "Start one: moonyard runner start. Its log says what it lacks."),
    "queue": ("Somebody waits for a job.", "Are there enough runners, and the tags that jobs ask for? `inspect.queue`"),
    "pauses": ("What is paused is not handed out.", "`moonyard resume` lets it go on."),
    "leases": ("Jobs of dead runners wait.", "Orchestrators take them back: their logs say why they do not."),
    "schedules": ("Jobs that were to be there are not.", "`inspect.schedules` says what is wrong with each."),
    "secrets": ("They stand in a log.", "Change their values where they are used, and set the new ones."),
    "transactions": (
        "Rows that are done with cannot be cleaned up meanwhile, and the queue gets slower.",
        "Whose is it? End it there, or with: SELECT pg_terminate_backend(PID).",
    ),
    "locks": ("What waits does not go on.", "`inspect.locks` says who holds them."),
    "autovacuum": (
        "Rows that are done with are not cleaned up, and all gets slower.",
        "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
    ),
    "database role": (
        "Whoever takes over that orchestrator can alter the schema, and delete what the audit says.",
        "Make a login for orchestrators that has what they need: moonyard db add-login.",
    ),
}
_HEALTH_OTHERWISE: Final = (
    "What is slow or lost in the database is so for all jobs.",
    "docs/operations.md says what each line of `inspect.health` means.",
)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a database says of itself: ``orchestrator.sql.checkup.FACTS``."""

    version_number: int
    version: str
    is_standby: bool
    now: datetime
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    autovacuum: bool
    password_encryption: str
    connections: int
    """How many all together may have."""
    login: str
    is_superuser: bool
    may_more: bool
    """It may make roles or databases, replicate, or pass over row security."""
    is_owner: bool
    is_local: bool
    """Whoever connects to Postgres, a pooler or this process, does so on Postgres' machine."""
    is_encrypted: bool
    transactions_unfrozen: int
    orchestrators: int
    """How many listen now."""
    slots_behind: str | None
    """Replication slots that hold back more of the log than they should."""


async def examine(url: str, listen_url: str | None) -> list[Finding]:
    """Look at a database."""
    try:
        with single_error(), anyio.fail_after(EXAMINE_SECONDS):
            async with reached(url, listen_url) as reaching:
                return await _look(reaching, listen_url)
    except TimeoutError:
        return [
            _finding(
                "database",
                "broken",
                f"{database.described(url)} did not answer all that it was asked within {EXAMINE_SECONDS:.0f} s",
                "All state is there: what waits for it waits.",
                "`inspect.locks` and `inspect.health` say what holds it up; so does its own log.",
            )
        ]
    except MoonyardError as error:
        return [unreached(error)]


@asynccontextmanager
async def reached(url: str, listen_url: str | None) -> AsyncGenerator[Database]:
    """Connect, with one connection.

    :raises MoonyardError: when it is not reached.
    """
    database.check_url(url)
    async with Database.open(url, connections_maximum=1, listen_url=listen_url, name="moonyard doctor") as reaching:
        yield reaching


def unreached(error: MoonyardError) -> Finding:
    """Say that there is no database, and what that means."""
    return failed(
        "database",
        error,
        part=PART,
        why="All state is there: without it no orchestrator does anything.",
        hint="Is it running, and is `database_url` right?",
    )


async def readable(reaching: Database) -> set[str]:
    """Name what this login may read."""
    return {row["name"] for row in await reaching.rows(checkup_sql.READABLE) if row["readable"]}


async def facts(reaching: Database) -> Facts:
    """Ask a database what it is."""
    row = await reaching.row(checkup_sql.FACTS)
    assert row is not None, "a session has a login"
    return msgspec.convert(dict(row), Facts)


def judged(told: Facts, here: datetime, *, is_pooled: bool) -> list[Finding]:
    """Judge what a database said of itself.

    :param here: what this machine's clock said then.
    """
    return [
        _version(told),
        *_kept(told),
        _clock(told, here),
        _connections(told, is_pooled=is_pooled),
        _login(told),
        _passwords(told),
    ]


async def _look(reaching: Database, listen_url: str | None) -> list[Finding]:
    told, here = await facts(reaching), datetime.now(UTC)
    found = judged(told, here, is_pooled=reaching.is_pooled)
    found.append(way(reaching.url, told, is_pooled=reaching.is_pooled))
    if reaching.is_pooled:
        found.append(_pooler(listen_url))
    may_read = await readable(reaching)
    if "pg_hba_file_rules" in may_read:
        found += _loose_logins([dict(row) for row in await reaching.rows(checkup_sql.LOOSE_LOGINS)])
    schema = await _schema(reaching, may_read)
    found.append(schema)
    if schema.state == "ok" and "inspect.health" in may_read:
        rows = await reaching.rows(checkup_sql.HEALTH)
        found += [_health(row["subject"], row["detail"], is_worry=row["state"] != "ok") for row in rows]
    return found


def _version(told: Facts) -> Finding:
    if told.version_number // 10000 < database.POSTGRES_VERSION_MINIMUM:
        return _finding(
            "version",
            "broken",
            f"PostgreSQL {told.version}",
            "Moonyard's statements are written for newer ones.",
            f"Upgrade it to {database.POSTGRES_VERSION_MINIMUM} or newer.",
        )
    if told.is_standby:
        return _finding(
            "version",
            "broken",
            f"PostgreSQL {told.version}, and a standby",
            "It takes no changes, so no job either.",
            "Name the primary in `database_url`; `target_session_attrs=read-write` finds it among several hosts.",
        )
    return _finding("version", "ok", f"PostgreSQL {told.version}")


def _kept(told: Facts) -> Iterator[Finding]:
    """Look at what decides whether that which was acknowledged is there after a crash."""
    lost = "What was acknowledged, jobs and secrets too, may be gone after a crash of the machine"
    check = "what is kept"
    found: list[Finding] = []
    if not told.fsync:
        why = f"{lost}; worse, the database may be damaged as a whole."
        found.append(_finding(check, "weak", "`fsync` is off", why, _reset("fsync", "on")))
    if not told.full_page_writes:
        why = "Pages that were half written when the power went are not repaired: the database is damaged."
        found.append(_finding(check, "weak", "`full_page_writes` is off", why, _reset("full_page_writes", "on")))
    if told.synchronous_commit == "off":
        hint = f"{_reset('synchronous_commit', 'on')} Or is it set by ALTER ROLE or ALTER DATABASE?"
        found.append(_finding(check, "weak", "`synchronous_commit` is off", f"{lost}.", hint))
    if not told.autovacuum:
        why, hint = _HEALTH["autovacuum"]
        found.append(_finding("cleaning up", "weak", "`autovacuum`, or what it counts by, is off", why, hint))
    if told.transactions_unfrozen > UNFROZEN_TRANSACTIONS_MAXIMUM:
        found.append(
            _finding(
                "cleaning up",
                "weak",
                f"its oldest rows are {told.transactions_unfrozen} transactions old, and were not frozen",
                "At two thousand million Postgres takes no change any more, until somebody vacuums it.",
                "What keeps autovacuum from it: a transaction, a slot, a prepared transaction? Then VACUUM.",
            )
        )
    if told.slots_behind is not None:
        found.append(
            _finding(
                "disk of Postgres",
                "weak",
                f"nobody reads from replication slots that hold back its log: {told.slots_behind}",
                "The log grows until the disk is full.",
                "Have their readers come back, or drop them: SELECT pg_drop_replication_slot(NAME).",
            )
        )
    yield from found
    if not any(finding.check == check for finding in found):
        yield _finding(check, "ok", "what it acknowledged is on disk")


def _reset(name: str, value: str) -> str:
    return f"ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf();"


def _clock(told: Facts, here: datetime) -> Finding:
    apart = abs((told.now - here).total_seconds())
    if apart <= CLOCK_SECONDS:
        return _finding("clock of the database", "ok", "it agrees with this machine's")
    return _finding(
        "clock of the database",
        "weak",
        f"it is {apart:.0f} s apart from this machine's",
        "Leases and schedules go by the database's clock alone; times in logs are of the runners' and do not fit.",
        "Let both keep their time by NTP.",
    )


def _connections(told: Facts, *, is_pooled: bool) -> Finding:
    check = "connections"
    needed = max(told.orchestrators, 1) * ORCHESTRATOR_CONNECTIONS + PEOPLE_CONNECTIONS
    text = f"there is room for {told.connections}; {told.orchestrators} orchestrators listen"
    if is_pooled:
        return _finding(check, "ok", f"{text}, and how many are made is the pooler's to say")
    if told.connections >= needed:
        return _finding(check, "ok", text)
    return _finding(
        check,
        "weak",
        f"{text}, which may need {needed}",
        f"An orchestrator has up to {ORCHESTRATOR_CONNECTIONS}: under load, requests are answered 503.",
        "Raise `max_connections` (and the limits of this database and login), or put a connection pooler before it.",
    )


def _login(told: Facts) -> Finding:
    check = "login"
    rights = [
        right
        for right, has in (
            ("is a superuser", told.is_superuser),
            ("owns the schema", told.is_owner and not told.is_superuser),
            ("may make roles or databases, replicate, or pass over row security", told.may_more),
        )
        if has and not (told.is_superuser and right != "is a superuser")
    ]
    if not rights:
        return _finding(check, "ok", f"`{told.login}` changes rows, and neither the schema nor the audit")
    return _finding(
        check,
        "weak",
        f"`{told.login}` {listed(rights)}",
        "If orchestrators have this login, whoever takes over one can alter the schema and the audit.",
        "Keep it for upgrades, and give orchestrators one of their own: moonyard db add-login.",
    )


def way(url: str, told: Facts, *, is_pooled: bool) -> Finding:
    """Look at what the connection goes over."""
    check = "way to the database"
    parts = conninfo.conninfo_to_dict(url)
    hosts = [host for name in ("hostaddr", "host") for host in str(parts.get(name) or "").split(",") if host]
    mode = str(parts.get("sslmode") or "")
    if all(_is_this_machine(host) for host in hosts) or (told.is_local and not is_pooled):
        return _finding(check, "ok", "on this machine alone")
    if mode in _CHECKED_CERTIFICATE:
        return _finding(check, "ok", "TLS, and whose certificate it is is checked")
    hint = "Give Postgres a certificate, and `database_url` ?sslmode=verify-full&sslrootcert=FILE."
    if mode == "require" or (told.is_encrypted and not is_pooled):
        why = (
            "Whoever can stand between can answer in the database's place, and gets the password's proof and all data."
        )
        return _finding(check, "weak", "TLS, and whose certificate it is is not checked", why, hint)
    why = "Whoever is on the way reads all that is read and written there, logs and hashes of tokens too."
    return _finding(check, "weak", "over a network, and without TLS that is asked for", why, hint)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith(("/", "@"))


def _passwords(told: Facts) -> Finding:
    check = "passwords"
    if told.password_encryption == _SCRAM:
        return _finding(check, "ok", "new ones are kept as scram-sha-256")
    return _finding(
        check,
        "weak",
        f"new ones are kept as {told.password_encryption}",
        "Whoever reads such a hash can log in with it.",
        f"{_reset('password_encryption', repr(_SCRAM))} Then set each password anew.",
    )


def _loose_logins(rows: Sequence[dict[str, object]]) -> Iterator[Finding]:
    for row in rows:
        yield _finding(
            f"pg_hba.conf:{row['line_number']}",
            "weak",
            f"from {row['address']}, logins are by `{row['auth_method']}`",
            "`trust` asks nothing, `password` sends it in plain, and an md5 hash can be used in the password's place.",
            "Write `scram-sha-256` there, and `hostssl` for `host`: SELECT pg_reload_conf() has it read.",
        )


def _pooler(listen_url: str | None) -> Finding:
    check = "pooler"
    if listen_url is not None and listen_url != LISTEN_OFF:
        return _finding(check, "ok", "a connection pooler stands before it, and orchestrators listen past it")
    return _finding(
        check,
        "weak",
        "a connection pooler stands before it, and `listen_url` names no way past it",
        "A job starts, and a log's line is seen, up to a second later.",
        "Name Postgres itself in `listen_url`: one connection of each orchestrator goes there.",
    )


async def _schema(reaching: Database, may_read: set[str]) -> Finding:
    needed = database.head()
    current = None
    if "moonyard.schema_version" in may_read:
        current = await reaching.value(checkup_sql.SCHEMA_VERSION)
    elif "inspect.health" in may_read:  # a reader's login: the version is not for it
        return _finding("schema", "ok", "it is there; its version is not for this login to see")
    if current == needed:
        return _finding("schema", "ok", f"version {needed}, as this Moonyard needs")
    return failed(
        "schema",
        database.schema_version_wrong(reaching.url, current, needed),
        part=PART,
        why="No orchestrator of this version starts with it.",
        hint="Run: moonyard db upgrade.",
    )


def _health(subject: str, detail: str, *, is_worry: bool) -> Finding:
    check = f"health: {subject}"
    if not is_worry:
        return _finding(check, "ok", detail)
    why, hint = _HEALTH.get(subject, _HEALTH_OTHERWISE)
    return _finding(check, "weak", detail, why, hint)


def _finding(check: str, state: State, text: str, why: str | None = None, hint: str | None = None) -> Finding:
    return Finding(part=PART, check=check, state=state, text=text, why=why, hint=hint)

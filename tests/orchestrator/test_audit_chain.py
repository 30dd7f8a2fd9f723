"""The audit's chain: what is changed, removed or put in shows, and rows are in one block each, whoever commits when."""

from __future__ import annotations

import json

import anyio
import asyncpg
import pytest

from orchestrator import audit
from orchestrator.database import Database
from schema.audit import AuditVerified
from schema.client import OrchestratorRefused
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation
from tests.postgres import as_replica, psql

DAY = 86400.0


async def rows(installation: Installation, number: int, *, days: float = 0.0) -> None:
    """Have so many rows in a block of their own."""
    await installation.fetch(
        "INSERT INTO moonyard.audit (at, actor, action, subject, detail) "
        "SELECT now() - make_interval(secs => $2), 'token x', 'submit', 'job ' || number, '{\"pipeline\": \"hello\"}' "
        "FROM generate_series(1, $1::integer) AS number",
        number,
        days * DAY,
    )
    await audit.seal(installation.database)


async def verified(installation: Installation, known: str | None = None) -> AuditVerified:
    """Verify as replicas do, and see that psql says the same."""
    found = await audit.verify(installation.database, known)
    [row] = await installation.fetch("SELECT * FROM control.audit_verify($1)", known)
    assert (row["state"], row["blocks"], row["entries"], row["newest"], row["detail"]) == (
        found.state,
        found.blocks,
        found.entries,
        found.head,
        found.detail,
    )
    return found


async def broken(installation: Installation, *statements: str, known: str | None = None) -> str:
    """Do something to the tables, give what is said then, and undo it."""
    async with installation.database.transaction() as connection:
        transaction = connection.transaction()
        await transaction.start()
        for statement in statements:
            await connection.execute(statement)
        row = await connection.fetchrow("SELECT * FROM control.audit_verify($1)", known)
        await transaction.rollback()
    assert row is not None
    assert row["state"] == "broken", row
    return row["detail"]


async def test_rows_are_sealed_in_blocks_and_the_chain_is_whole(installation: Installation):
    await rows(installation, 3)
    await rows(installation, 2 * audit.BLOCK_ROWS + 5)
    found = await verified(installation)
    assert (found.state, found.blocks, found.detail, found.unsealed) == ("whole", 4, None, 0)
    assert found.head == await audit.head(installation.database)
    await installation.fetch("SELECT moonyard.note('token x', 'pause', 'everything')")
    assert (await verified(installation)).unsealed == 1


async def test_an_audit_without_rows_is_whole(database_url: str):
    async with Database.open(database_url, connections_maximum=1) as database:
        assert await audit.seal(database) == 0
        assert await audit.verify(database) == AuditVerified(
            state="whole", blocks=0, entries=0, unsealed=0, head=None, detail=None
        )


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'somebody else'",
        "address = '10.0.0.1'",
        "action = 'cancel'",
        "subject = 'job 99'",
        "result = 'refused'",
        "detail = '{}'",
        "detail = NULL",
        "at = at + interval '1 microsecond'",
    ],
)
async def test_a_row_that_was_changed_shows(installation: Installation, change: str):
    await rows(installation, 3)
    await rows(installation, 3)
    await rows(installation, 3)
    number = await installation.database.value("SELECT lower(ids) + 1 FROM moonyard.audit_chain WHERE number = 2")
    said = await broken(installation, f"UPDATE moonyard.audit SET {change} WHERE id = {number}")  # noqa: S608
    assert said.startswith("block 2 is not what was sealed at ")


async def test_rows_that_were_removed_or_put_in_show(installation: Installation):
    await rows(installation, 3)
    await rows(installation, 3)
    await rows(installation, 3)
    [block] = await installation.fetch("SELECT lower(ids) AS id FROM moonyard.audit_chain WHERE number = 2")
    first = block["id"]
    assert " had 3 rows (ids {[" in await broken(installation, f"DELETE FROM moonyard.audit WHERE id = {first}")  # noqa: S608
    put_in = (
        "INSERT INTO moonyard.audit (actor, action, subject) VALUES ('x', 'y', 'z')",
        "DELETE FROM moonyard.audit_unsealed",
    )
    assert await broken(installation, *put_in) == (
        f"1 rows are in no block, and wait for none: the first has id {first + 6}"
    )
    moved = f"UPDATE moonyard.audit SET id = DEFAULT WHERE id = {first}"  # noqa: S608
    assert "and 2 are there" in await broken(installation, moved)
    unsealed = (put_in[0], "DELETE FROM moonyard.audit WHERE actor = 'x'")
    assert await broken(installation, *unsealed) == "rows were removed before they were sealed"


async def test_blocks_that_are_missing_show(installation: Installation):
    for _ in range(4):
        await rows(installation, 2)
    head = await audit.head(installation.database)
    assert head is not None
    second = "SELECT ids FROM moonyard.audit_chain WHERE number = 2"
    removed = (
        f"DELETE FROM moonyard.audit WHERE id <@ ({second})",  # noqa: S608
        "DELETE FROM moonyard.audit_chain WHERE number = 2",
    )
    assert await broken(installation, *removed) == "blocks 2 to 2 are missing"
    beginning = (
        "DELETE FROM moonyard.audit WHERE id <@ (SELECT ids FROM moonyard.audit_chain WHERE number = 1)",
        "DELETE FROM moonyard.audit_chain WHERE number = 1",
    )
    assert await broken(installation, *beginning) == "blocks 1 to 1 are missing"
    as_if_old = (beginning[0], "UPDATE moonyard.audit_chain SET removed_at = now() WHERE number = 1")
    assert await broken(installation, *as_if_old) == (
        "rows up to block 1 were removed, and no row of the audit says so"
    )


async def test_a_chain_that_was_cut_at_its_end_or_written_anew_differs_from_a_head_that_was_noted(
    installation: Installation,
):
    await rows(installation, 2)
    await rows(installation, 2)
    head = await audit.head(installation.database)
    assert head is not None
    assert (await verified(installation, head)).state == "whole"
    cut = (
        "DELETE FROM moonyard.audit WHERE id <@ (SELECT ids FROM moonyard.audit_chain WHERE number = 2)",
        "DELETE FROM moonyard.audit_chain WHERE number = 2",
    )
    assert await broken(installation, *cut, known=head) == "block 2 was sealed once, and the chain ends with 1"
    another = """
    UPDATE moonyard.audit SET actor = 'somebody else'
    WHERE id <@ (SELECT ids FROM moonyard.audit_chain WHERE number = 2)
    """
    anew = """
    UPDATE moonyard.audit_chain AS block
    SET hash = moonyard.audit_hash(before.hash, block.number, block.ids, block.sealed_at)
    FROM moonyard.audit_chain AS before WHERE before.number = 1 AND block.number = 2
    """
    assert await broken(installation, another, anew, known=head) == (
        "block 2 had another hash once: the chain up to it was written anew"
    )
    for nonsense in ("x", "2", "2:abc", "-1:" + 64 * "0"):
        with pytest.raises(Exception, match="is no head of the audit"):
            await audit.verify(installation.database, nonsense)
        assert "is no head of the audit" in await refused(installation, nonsense)


async def refused(installation: Installation, known: str) -> str:
    try:
        await installation.fetch("SELECT * FROM control.audit_verify($1)", known)
    except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
        return str(error)
    return "nothing"


async def test_a_row_whose_transaction_ends_late_is_in_a_later_block(installation: Installation):
    note = "SELECT moonyard.note('late', 'submit', 'job 1')"
    late = await asyncpg.connect(installation.url)
    try:
        transaction = late.transaction()
        await transaction.start()
        await late.execute(note)
        await rows(installation, 3)
        assert (await verified(installation)).blocks == 1
        await transaction.commit()
    finally:
        await late.close()
    assert (await verified(installation)).unsealed == 1
    assert await audit.seal(installation.database) == 1
    found = await verified(installation)
    assert (found.state, found.blocks, found.unsealed) == ("whole", 2, 0)
    blocks = await installation.fetch("SELECT upper(ids) AS beyond FROM moonyard.audit_chain ORDER BY number")
    assert blocks[1]["beyond"] < blocks[0]["beyond"]


async def test_one_session_at_a_time_seals_and_no_row_is_in_two_blocks(installation: Installation):
    async def write() -> None:
        for _ in range(20):
            await installation.fetch("SELECT moonyard.note('token x', 'submit', 'job 1')")

    async def seal() -> None:
        for _ in range(40):
            await audit.seal(installation.database)

    async with anyio.create_task_group() as tasks:
        for duty in (write, seal, seal, write):
            tasks.start_soon(duty)
    await audit.seal(installation.database)
    found = await verified(installation)
    assert (found.state, found.unsealed) == ("whole", 0)
    counted = await installation.fetch("SELECT sum(entries) AS blocks FROM moonyard.audit_chain")
    assert counted[0]["blocks"] == await installation.database.value("SELECT count(*) FROM moonyard.audit")


async def test_old_rows_go_by_whole_blocks_and_what_is_left_can_be_verified(installation: Installation):
    await installation.fetch("UPDATE moonyard.audit SET at = now() - interval '110 days'")
    for days in (100.0, 90.0, 80.0, 10.0, 70.0):
        await rows(installation, 4, days=days)
    head = await audit.head(installation.database)
    assert head is not None
    assert await audit.remove_old(installation.database, 60.0) >= 12
    assert await audit.remove_old(installation.database, 60.0) == 0, "behind a block that is not old, none goes"
    await audit.seal(installation.database)
    found = await verified(installation, head)
    assert found.state == "whole"
    assert (
        await installation.database.value("SELECT count(*) FROM moonyard.audit WHERE at < now() - interval '75 days'")
        == 0
    )
    [row] = await installation.fetch("SELECT actor, subject, detail FROM moonyard.audit WHERE action = 'remove audit'")
    assert row["actor"] == "postgres"
    assert json.loads(row["detail"])["days"] == 60
    assert await broken(installation, "DELETE FROM moonyard.audit WHERE action = 'remove audit'")
    second = await installation.fetch("SELECT min(number) AS first FROM moonyard.audit_chain")
    old_head = f"{second[0]['first'] - 1}:{64 * '0'}"
    assert (await audit.verify(installation.database, old_head)).detail == (
        f"block {second[0]['first'] - 1} is older than what is kept: a later head can be compared"
    )


async def test_nobody_removes_what_is_younger_than_thirty_days(installation: Installation):
    await rows(installation, 4, days=10.0)
    with pytest.raises(Exception, match="kept for 30 days at least"):
        await audit.remove_old(installation.database, 29.0)


async def test_a_replica_seals_by_itself_and_an_api_call_stands_in_the_chain(installation: Installation):
    await installation.replica()
    await installation.push()
    await installation.submit()
    with anyio.fail_after(DEADLINE_SECONDS):
        while (await audit.verify(installation.database)).unsealed:
            pass
    admin = await installation.client()
    found = await admin.get("/v1/audit/verify", AuditVerified)
    assert (found.state, found.detail) == ("whole", None)
    assert found.head is not None
    assert (await admin.get("/v1/audit/verify", AuditVerified, query={"head": found.head})).state == "whole"
    with pytest.raises(OrchestratorRefused) as raised:
        await admin.get("/v1/audit/verify", AuditVerified, query={"head": "17"})
    assert (raised.value.status, raised.value.code) == (422, "request_invalid")


async def test_sealing_reads_what_is_new_and_no_history(installation: Installation):
    await rows(installation, 20_000)
    await installation.fetch("SELECT moonyard.note('token x', 'submit', 'job 1')")
    await installation.fetch("ANALYZE moonyard.audit, moonyard.audit_unsealed, moonyard.audit_chain")
    before = await reads(installation)
    assert await audit.seal(installation.database) == 1
    assert await reads(installation) - before <= 2


async def reads(installation: Installation) -> int:
    """Count the rows of the audit that were read by going through the whole table."""
    await installation.fetch("SELECT pg_stat_force_next_flush()")
    [row] = await installation.fetch(
        "SELECT seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'moonyard' AND relname = 'audit'"
    )
    return row["seq_tup_read"]


async def test_what_comes_from_where_is_believed_of_replicas_alone(installation: Installation):
    await installation.replica()
    await installation.push()
    forged = "SET moonyard.address = '203.0.113.7'; SELECT control.pause('hello')"
    await installation.fetch("DROP ROLE IF EXISTS moonyard_test_operator")
    await installation.fetch("CREATE ROLE moonyard_test_operator LOGIN IN ROLE moonyard_operator")
    try:
        psql(installation.url.replace("//postgres:@", "//moonyard_test_operator@", 1), forged)
    finally:
        await installation.fetch("DROP ROLE moonyard_test_operator")
    statement = "SELECT actor, address FROM moonyard.audit ORDER BY id DESC LIMIT 1"
    [row] = await installation.fetch(statement)
    assert tuple(row) == ("moonyard_test_operator", "local (psql)")
    replica = await asyncpg.connect(as_replica(installation.url))
    try:
        async with replica.transaction():
            await replica.execute("SELECT set_config('moonyard.address', '203.0.113.7', true)")
            await replica.execute("SELECT moonyard.note('token x', 'submit', 'job 1')")
    finally:
        await replica.close()
    [row] = await installation.fetch(statement)
    assert row["address"] == "203.0.113.7"

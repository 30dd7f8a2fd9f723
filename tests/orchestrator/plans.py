"""Plans of hot statements, as they are once a statement was prepared and run a while."""

from __future__ import annotations

from tests.orchestrator.installation import Installation


async def plan(installation: Installation, statement: str, *values: str, analyze: bool = False) -> str:
    """Give the plan that a statement gets once its values are no longer looked at: the one that has to be good.

    :param analyze: run it, and tell what was walked.
    """
    how = "(ANALYZE, TIMING OFF)" if analyze else ""
    async with installation.database.transaction() as connection:
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE hot AS {statement}")
        try:
            given = f"({', '.join(values)})" if values else ""
            explained = await connection.fetch(f"EXPLAIN {how} EXECUTE hot{given}")
            return "\n".join(row[0] for row in explained)
        finally:
            await connection.execute("DEALLOCATE hot")

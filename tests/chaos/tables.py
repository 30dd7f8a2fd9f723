"""How large the tables are, in the course of a run: with old jobs removed they must not go on growing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.chaos.figures import TableSize
from tests.chaos.questions import rows

SIZES = """
SELECT relname AS name, pg_total_relation_size(oid) AS bytes FROM pg_class
WHERE relnamespace = 'moonyard'::regnamespace AND relkind = 'r'
"""
KEPT_LONGER = frozenset({"blobs", "blob_chunks"})
"""What no artifact names any more is kept for another day."""
GROWTH_FACTOR = 1.5
GROWTH_BYTES = 1024 * 1024
"""What a table may have more towards the end than in the middle: factor and bytes, both."""


class Sample(NamedTuple):
    """Bytes of each table, its indexes included, at a time."""

    at: float
    sizes: dict[str, int]


async def sample(url: str, at: float) -> Sample:
    return Sample(at, {row["name"]: row["bytes"] for row in await rows(url, SIZES)})


def sizes(samples: Sequence[Sample]) -> dict[str, TableSize]:
    """Compare a run's second quarter, when old jobs are removed already, with its last."""
    if not samples:
        return {}
    start, end = samples[0].at, samples[-1].at
    places = [((one.at - start) / max(end - start, 1e-9), one.sizes) for one in samples]
    middle = [sizes for place, sizes in places if 0.25 <= place < 0.5] or [samples[0].sizes]
    late = [sizes for place, sizes in places if place >= 0.75] or [samples[-1].sizes]  # of a run that was short
    return {
        name: TableSize(
            middle_bytes=max(one.get(name, 0) for one in middle),
            late_bytes=max(one.get(name, 0) for one in late),
            end_bytes=size,
        )
        for name, size in sorted(samples[-1].sizes.items())
    }


def growing(found: dict[str, TableSize]) -> list[str]:
    """Name the tables that grew on."""
    return [
        f"{name} grew from {size.middle_bytes} to {size.late_bytes} bytes"
        for name, size in found.items()
        if name not in KEPT_LONGER and size.late_bytes > size.middle_bytes * GROWTH_FACTOR + GROWTH_BYTES
    ]

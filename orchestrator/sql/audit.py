"""Statements of the audit."""

from __future__ import annotations

from typing import Final

# $1 how many
SEAL: Final = "SELECT moonyard.audit_seal($1)"

HEAD: Final = "SELECT number || ':' || encode(hash, 'hex') FROM moonyard.audit_chain ORDER BY number DESC LIMIT 1"

# $1 after which block, $2 how many
CHECK: Final = "SELECT last, entries, broken FROM moonyard.audit_check($1, $2)"

# $1 a head of once, or NULL
END: Final = "SELECT blocks, newest, unsealed, broken FROM moonyard.audit_end($1)"

# $1 seconds, $2 how many blocks
RETIRE: Final = "SELECT moonyard.audit_retire($1, $2)"

# $1 actors, $2 addresses, $3 actions, $4 subjects, $5 details
NOTE_REFUSED: Final = """
SELECT moonyard.note(actor, action, subject, detail::jsonb, address, 'refused')
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS refused (actor, address, action, subject, detail)
"""

# $1 since, $2 until, $3 actor, $4 action: patterns, $5 result: each or NULL. $6 before which id, $7 how many.
NEWEST: Final = """
SELECT id, at, actor, address, action, subject, result, detail FROM moonyard.audit
WHERE ($1::timestamptz IS NULL OR at >= $1) AND ($2::timestamptz IS NULL OR at < $2)
    AND ($3::text IS NULL OR moonyard.pattern_fits($3, actor))
    AND ($4::text IS NULL OR moonyard.pattern_fits($4, action))
    AND ($5::text IS NULL OR result = $5) AND id < $6
ORDER BY id DESC
LIMIT $7
"""

# The same, but $6 after which id.
OLDEST: Final = """
SELECT id, at, actor, address, action, subject, result, detail FROM moonyard.audit
WHERE ($1::timestamptz IS NULL OR at >= $1) AND ($2::timestamptz IS NULL OR at < $2)
    AND ($3::text IS NULL OR moonyard.pattern_fits($3, actor))
    AND ($4::text IS NULL OR moonyard.pattern_fits($4, action))
    AND ($5::text IS NULL OR result = $5) AND id > $6
ORDER BY id
LIMIT $7
"""

# The same, but $6 after which block, $7 how many blocks. A block of which no row fits gives one without an id.
IN_BLOCKS: Final = """
SELECT block.number AS block, fitting.*
FROM (
    SELECT number, ids FROM moonyard.audit_chain WHERE number > $6 AND removed_at IS NULL ORDER BY number LIMIT $7
) AS block
LEFT JOIN LATERAL (
    SELECT entry.id, entry.at, entry.actor, entry.address, entry.action, entry.subject, entry.result, entry.detail
    FROM unnest(block.ids) AS piece JOIN moonyard.audit AS entry ON entry.id >= lower(piece) AND entry.id < upper(piece)
    WHERE ($1::timestamptz IS NULL OR entry.at >= $1) AND ($2::timestamptz IS NULL OR entry.at < $2)
        AND ($3::text IS NULL OR moonyard.pattern_fits($3, entry.actor))
        AND ($4::text IS NULL OR moonyard.pattern_fits($4, entry.action)) AND ($5::text IS NULL OR entry.result = $5)
) AS fitting ON true
ORDER BY block.number, fitting.id
"""

-- Plugins: what was pushed under names and versions, and the contents of all that some version of a pipeline is locked
-- with, wherever they came from. Nothing here changes or goes: a version of a pipeline runs with the same for ever.

CREATE TABLE moonyard.plugin_contents (
    sha256 text PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    files json NOT NULL,  -- the text of each file by its path
    size_bytes integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT plugin_hash_is_a_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT plugin_name_is_one CHECK (name ~ '^[a-z][a-z0-9_]{0,49}$'),
    CONSTRAINT plugin_version_has_a_length CHECK (length(version) BETWEEN 5 AND 64)
);
COMMENT ON TABLE moonyard.plugin_contents IS 'Files of plugins, each set under the hash of all of them. Never changed.';

CREATE TABLE moonyard.plugins (
    name text NOT NULL,
    version text NOT NULL,
    sha256 text NOT NULL REFERENCES moonyard.plugin_contents (sha256),
    pushed_by text NOT NULL,
    pushed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT plugins_pkey PRIMARY KEY (name, version)
);
COMMENT ON TABLE moonyard.plugins IS 'Versions of plugins that were pushed. What one names never changes.';

ALTER TABLE moonyard.pipeline_versions ADD COLUMN plugins jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN moonyard.pipeline_versions.plugins IS
    'The plugins that the version is locked with: name, version, sha256, origin; each after those that it needs.';

CREATE VIEW inspect.plugins AS
WITH locks AS (
    SELECT
        locked ->> 'sha256' AS sha256, min(locked ->> 'origin') AS origin, count(*) AS locked_by,
        string_agg(
            DISTINCT pipeline.name || ' ' || left(version.sha256, 8), ', '
            ORDER BY pipeline.name || ' ' || left(version.sha256, 8)
        ) AS pipelines
    FROM moonyard.pipeline_versions AS version
    CROSS JOIN LATERAL jsonb_array_elements(version.plugins) AS locked
    JOIN moonyard.pipelines AS pipeline ON pipeline.id = version.pipeline_id
    GROUP BY 1
)
SELECT
    content.name AS plugin,
    content.version,
    left(content.sha256, 12) AS hash,
    inspect.shortened(CASE WHEN pushed.sha256 IS NULL THEN locks.origin ELSE 'pushed' END, 40) AS origin,
    pushed.pushed_by,
    inspect.duration(now() - coalesce(pushed.pushed_at, content.created_at)) AS age,
    pg_size_pretty(content.size_bytes::bigint) AS size,
    coalesce(locks.locked_by, 0) AS locked_by,
    inspect.shortened(locks.pipelines, 60) AS pipelines
FROM moonyard.plugin_contents AS content
LEFT JOIN moonyard.plugins AS pushed ON pushed.sha256 = content.sha256
LEFT JOIN locks ON locks.sha256 = content.sha256
ORDER BY content.name, content.created_at DESC, content.sha256;
COMMENT ON VIEW inspect.plugins IS
    'Plugins that were pushed, or that versions of pipelines are locked with: which, from where, by whom, and how many versions of which pipelines.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON inspect.plugins TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT SELECT ON inspect.plugins TO moonyard_operator;
    END IF;
END $$;

-- What jobs keep of their workspaces for jobs to come: under keys that never change what they name, a pipeline's own.

CREATE FUNCTION moonyard.paths_hash(paths text[]) RETURNS bytea
LANGUAGE sql IMMUTABLE
RETURN sha256(convert_to(to_jsonb(paths)::text, 'UTF8'));
COMMENT ON FUNCTION moonyard.paths_hash IS 'A short name of a list of paths, however long it is.';

CREATE TABLE moonyard.caches (
    id uuid PRIMARY KEY,
    pipeline_id uuid NOT NULL REFERENCES moonyard.pipelines (id),
    scope text NOT NULL,  -- empty where all jobs of the pipeline share it
    key text NOT NULL,
    paths text[] NOT NULL,
    paths_hash bytea NOT NULL GENERATED ALWAYS AS (moonyard.paths_hash(paths)) STORED,
    blob_id uuid NOT NULL REFERENCES moonyard.blobs (id),
    size_bytes bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz NOT NULL DEFAULT now(),
    hits bigint NOT NULL DEFAULT 0,
    job_number bigint NOT NULL,  -- of the job that saved it, which may be gone before it
    CONSTRAINT cache_key_is_unique_in_its_scope UNIQUE (pipeline_id, scope, paths_hash, key),
    CONSTRAINT cache_key_has_a_length CHECK (length(key) BETWEEN 1 AND 250),
    CONSTRAINT cache_scope_has_a_length CHECK (length(scope) <= 200)
);
COMMENT ON TABLE moonyard.caches IS 'Paths of workspaces, packed, kept by jobs for later jobs of their pipeline.';
COMMENT ON COLUMN moonyard.caches.scope IS 'Jobs write the scope that their inputs name, and no other; they read it, and the one of the inputs'' defaults.';
CREATE INDEX caches_of_blob ON moonyard.caches (blob_id);
CREATE INDEX caches_used ON moonyard.caches (used_at);

CREATE FUNCTION moonyard.caches_forget(pipeline text, actor text, of_key text DEFAULT NULL, of_scope text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    target uuid := moonyard.pipeline_of(pipeline);
    forgotten bigint;
BEGIN
    DELETE FROM moonyard.caches
    WHERE pipeline_id = target AND (of_key IS NULL OR key = of_key) AND (of_scope IS NULL OR scope = of_scope);
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    IF forgotten > 0 THEN
        PERFORM moonyard.note(
            actor, 'forget cache', 'pipeline ' || pipeline,
            jsonb_strip_nulls(jsonb_build_object('key', of_key, 'scope', of_scope, 'caches', forgotten))
        );
    ELSIF of_key IS NOT NULL THEN
        PERFORM moonyard.refuse(
            'cache_unknown', format('pipeline `%s` has no cache `%s`', pipeline, left(of_key, 250))
                || CASE WHEN of_scope IS NULL THEN '' ELSE format(' in scope `%s`', left(of_scope, 200)) END,
            'inspect.caches and `moonyard cache list` show which there are.'
        );
    END IF;
    RETURN forgotten;
END $$;
COMMENT ON FUNCTION moonyard.caches_forget IS 'Removes caches of a pipeline: of a key or all, in a scope or all. Gives how many there were.';

CREATE FUNCTION control.forget_cache(pipeline text, key text DEFAULT NULL, scope text DEFAULT NULL) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT moonyard.caches_forget(pipeline, session_user, key, scope);
$$;
COMMENT ON FUNCTION control.forget_cache IS
    'Removes a pipeline''s caches, of one key or all, in one scope or all, and says how many there were: SELECT control.forget_cache(''build'', ''cargo-1'');';

CREATE VIEW inspect.caches AS
SELECT
    inspect.shortened(pipeline.name, 16) AS pipeline,
    inspect.shortened(cache.scope, 12) AS scope,
    inspect.shortened(cache.key, 32) AS key,
    pg_size_pretty(cache.size_bytes) AS size,
    inspect.duration(now() - cache.created_at) AS age,
    inspect.duration(now() - cache.used_at) AS unused,
    cache.hits,
    cache.job_number AS job
FROM moonyard.caches AS cache
JOIN moonyard.pipelines AS pipeline ON pipeline.id = cache.pipeline_id
ORDER BY cache.used_at DESC, cache.id DESC;
COMMENT ON VIEW inspect.caches IS 'What jobs keep of their workspaces for later jobs, what was used last first; job: the one that saved it.';

REVOKE EXECUTE ON FUNCTION control.forget_cache FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON inspect.caches TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT SELECT ON inspect.caches TO moonyard_operator;
        GRANT EXECUTE ON FUNCTION control.forget_cache TO moonyard_operator;
    END IF;
END $$;

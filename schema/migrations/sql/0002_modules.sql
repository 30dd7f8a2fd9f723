-- What modules leave with a job: outputs of stages, rows of test reports, artifacts with an end; and contents that are
-- stored elsewhere than in this database.

ALTER TABLE moonyard.jobs ADD COLUMN trigger jsonb;
COMMENT ON COLUMN moonyard.jobs.trigger IS 'What made it: {"kind": "submit" | "schedule" | "psql", "by": a token''s, schedule''s or user''s name}.';

ALTER TABLE moonyard.stages ADD COLUMN outputs jsonb;
COMMENT ON COLUMN moonyard.stages.outputs IS 'What its script told by job.output, when it ended.';

-- Contents -------------------------------------------------------------------------------------------------------

ALTER TABLE moonyard.blobs
    ADD COLUMN store text NOT NULL DEFAULT 'postgres',
    ADD COLUMN chunk_bytes integer NOT NULL DEFAULT 1048576,
    ADD COLUMN upload_sha256 text,
    ADD COLUMN upload_runner_id uuid,
    ADD COLUMN upload_writer uuid,
    ADD COLUMN upload_chunks integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT blob_store_is_known CHECK (store IN ('postgres', 'objects')),
    ADD CONSTRAINT chunks_have_a_size CHECK (chunk_bytes > 0 AND upload_chunks >= 0);
COMMENT ON COLUMN moonyard.blobs.store IS 'Where its chunks are: in blob_chunks, or in the object store of the setting artifact_store.';
COMMENT ON COLUMN moonyard.blobs.upload_writer IS 'The request that may add chunks: one that takes an upload up again takes it from the one before.';
COMMENT ON COLUMN moonyard.blobs.upload_chunks IS 'How many of its chunks are stored while it is being uploaded.';
CREATE UNIQUE INDEX one_upload_a_runner_and_content ON moonyard.blobs (upload_runner_id, upload_sha256)
    WHERE sha256 IS NULL AND upload_sha256 IS NOT NULL;

CREATE TABLE moonyard.blob_remnants (
    blob_id uuid PRIMARY KEY,
    removed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE moonyard.blob_remnants IS 'Removed contents whose chunks may still be in the object store: a row goes when they have gone.';

CREATE FUNCTION moonyard.blob_remnants() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO moonyard.blob_remnants (blob_id) SELECT id FROM removed WHERE store = 'objects' ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION moonyard.blob_remnants IS 'Notes which removed contents have chunks in the object store.';
CREATE TRIGGER blob_remnants AFTER DELETE ON moonyard.blobs REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION moonyard.blob_remnants();

-- Artifacts ------------------------------------------------------------------------------------------------------

ALTER TABLE moonyard.artifacts ADD COLUMN stage text, ADD COLUMN expires_at timestamptz;
COMMENT ON COLUMN moonyard.artifacts.expires_at IS 'When it goes, where the job said how long it is kept; else it goes with its job.';
CREATE INDEX artifacts_expiring ON moonyard.artifacts (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX jobs_succeeded ON moonyard.jobs (pipeline_id, number) WHERE state = 'succeeded';

CREATE VIEW inspect.artifacts AS
SELECT
    job.number AS job,
    inspect.shortened(pipeline.name, 16) AS pipeline,
    inspect.shortened(artifact.stage, 14) AS stage,
    inspect.shortened(artifact.name, 32) AS artifact,
    pg_size_pretty(blob.size_bytes) AS size,
    left(blob.sha256, 12) AS sha256,
    inspect.duration(now() - artifact.created_at) AS age,
    inspect.duration(artifact.expires_at - now()) AS left
FROM moonyard.artifacts AS artifact
JOIN moonyard.jobs AS job ON job.id = artifact.job_id
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
JOIN moonyard.blobs AS blob ON blob.id = artifact.blob_id
WHERE artifact.expires_at IS NULL OR artifact.expires_at > now()
ORDER BY job.number DESC, artifact.name;
COMMENT ON VIEW inspect.artifacts IS 'What jobs kept, the newest job first; left: until it goes, where that is before its job does.';

-- Outputs --------------------------------------------------------------------------------------------------------

CREATE VIEW inspect.outputs AS
SELECT
    job.number AS job,
    stage.attempt,
    inspect.shortened(stage.name, 20) AS stage,
    inspect.shortened(told.name, 24) AS output,
    inspect.shortened(CASE jsonb_typeof(told.value) WHEN 'string' THEN told.value #>> '{}' ELSE told.value::text END, 48) AS value
FROM moonyard.stages AS stage
JOIN moonyard.jobs AS job ON job.id = stage.job_id
CROSS JOIN LATERAL jsonb_each(stage.outputs) AS told (name, value)
WHERE stage.outputs IS NOT NULL
ORDER BY job.number DESC, stage.attempt DESC, stage.first_seq, told.name;
COMMENT ON VIEW inspect.outputs IS 'What stages told by job.output, the newest job first.';

-- Tests ----------------------------------------------------------------------------------------------------------

CREATE TABLE moonyard.tests (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    stage text NOT NULL,
    report text NOT NULL,
    position integer NOT NULL,
    suite text NOT NULL,
    name text NOT NULL,
    state text NOT NULL,
    duration_seconds double precision,
    message text,
    CONSTRAINT tests_pkey PRIMARY KEY (job_id, attempt, stage, report, position),
    CONSTRAINT test_state_is_known CHECK (state IN ('passed', 'failed', 'error', 'skipped'))
);
COMMENT ON TABLE moonyard.tests IS 'Tests of reports that jobs read by artifact.test_report. Removed with their job, as attempts are.';

CREATE VIEW inspect.tests AS
SELECT
    job.number AS job,
    test.attempt,
    inspect.shortened(test.stage, 14) AS stage,
    inspect.shortened(test.suite, 20) AS suite,
    inspect.shortened(test.name, 32) AS name,
    test.state,
    inspect.duration(make_interval(secs => test.duration_seconds)) AS duration,
    inspect.shortened(test.message, 40) AS message
FROM moonyard.tests AS test
JOIN moonyard.jobs AS job ON job.id = test.job_id
ORDER BY job.number DESC, test.attempt DESC, test.stage, test.report, test.position;
COMMENT ON VIEW inspect.tests IS 'Tests of reports, the newest job first: SELECT * FROM inspect.tests WHERE job = 17 AND state <> ''passed'';';

CREATE OR REPLACE FUNCTION moonyard.job_remnants() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    -- As an array: a join with a table of unknown size might be done by reading the whole history.
    gone CONSTANT uuid[] := ARRAY(SELECT id FROM removed);
BEGIN
    DELETE FROM moonyard.event_batches WHERE job_id = ANY (gone);
    DELETE FROM moonyard.commands WHERE job_id = ANY (gone);
    DELETE FROM moonyard.stages WHERE job_id = ANY (gone);
    DELETE FROM moonyard.tests WHERE job_id = ANY (gone);
    DELETE FROM moonyard.attempts WHERE job_id = ANY (gone);
    RETURN NULL;
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON inspect.artifacts, inspect.outputs, inspect.tests TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT SELECT ON inspect.artifacts, inspect.outputs, inspect.tests TO moonyard_operator;
    END IF;
END $$;

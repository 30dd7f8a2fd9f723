-- Back to an empty schema `moonyard`, in which only Alembic's own table is left. The role moonyard_reader stays: it
-- belongs to the whole cluster, and other databases may use it.
DROP SCHEMA inspect CASCADE;
DROP FUNCTION moonyard.job_line, moonyard.job_of;
DROP TABLE
    moonyard.artifacts, moonyard.blob_chunks, moonyard.blobs, moonyard.event_batches, moonyard.commands,
    moonyard.stages, moonyard.attempts, moonyard.jobs, moonyard.pipelines, moonyard.pipeline_versions,
    moonyard.tokens, moonyard.runners
    CASCADE;
DROP FUNCTION moonyard.job_remnants;

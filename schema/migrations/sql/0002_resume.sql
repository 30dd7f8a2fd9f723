-- Retries that begin at a stage: kept workspaces, and what the next attempt is to skip.

CREATE TABLE moonyard.kept_workspaces (
    job_id uuid PRIMARY KEY REFERENCES moonyard.jobs (id) ON DELETE CASCADE,
    attempt integer NOT NULL,
    blob_id uuid NOT NULL REFERENCES moonyard.blobs (id),
    kept_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE moonyard.kept_workspaces IS 'Workspaces of failed attempts, packed: a job''s newest, for as long as its pipeline says keep_workspace.';
CREATE INDEX kept_workspaces_of_blob ON moonyard.kept_workspaces (blob_id);
CREATE INDEX kept_workspaces_expiring ON moonyard.kept_workspaces (expires_at);

CREATE FUNCTION moonyard.job_resume(
    job uuid, actor text, from_stage text, without_workspace boolean DEFAULT false
) RETURNS bigint
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ended record;
    kept record;
    first record;
    undone text;
    place bigint;
BEGIN
    SELECT job_row.number, job_row.finished_at, version.definition INTO ended
    FROM moonyard.jobs AS job_row JOIN moonyard.pipeline_versions AS version ON version.id = job_row.version_id
    WHERE job_row.id = job
    FOR UPDATE OF job_row;
    IF ended.finished_at IS NULL THEN  -- or there is no such job: it knows the words
        RETURN moonyard.job_retry(job, actor);
    END IF;
    -- By its name in the file, a stage with a matrix is the first of its combinations.
    SELECT stage.value ->> 'name' AS name, stage.ordinality AS place INTO first
    FROM json_array_elements(ended.definition -> 'stages') WITH ORDINALITY AS stage
    WHERE from_stage IN (stage.value ->> 'name', stage.value ->> 'of')
    ORDER BY stage.ordinality
    LIMIT 1;
    IF NOT FOUND THEN
        PERFORM moonyard.refuse(
            'stage_unknown',
            format('job %s has no stage `%s` to begin with', ended.number, left(from_stage, 120)),
            'Its stages are: ' || (
                SELECT string_agg(stage.value ->> 'name', ', ' ORDER BY stage.ordinality)
                FROM json_array_elements(ended.definition -> 'stages') WITH ORDINALITY AS stage
            ) || '.'
        );
    END IF;
    IF first.place = 1 THEN  -- as any retry
        RETURN moonyard.job_retry(job, actor);
    END IF;
    -- Done is what succeeded, and what went no further because it need not.
    SELECT before.value ->> 'name' INTO undone
    FROM json_array_elements(ended.definition -> 'stages') WITH ORDINALITY AS before
    WHERE before.ordinality < first.place AND NOT EXISTS (
        SELECT FROM moonyard.stages AS done
        WHERE done.job_id = job AND done.name = before.value ->> 'name'
            AND CASE done.state
                WHEN 'succeeded' THEN true
                WHEN 'failed' THEN (before.value ->> 'allow_failure')::boolean
                WHEN 'skipped' THEN before.value ->> 'when' <> 'on_success'
            END
    )
    ORDER BY before.ordinality
    LIMIT 1;
    IF FOUND THEN
        PERFORM moonyard.refuse(
            'stage_not_reached',
            format('job %s cannot begin with stage `%s`: stage `%s` before it has not succeeded', ended.number, first.name, undone),
            format('Begin with `--from %s`, or from the start.', CASE WHEN undone LIKE '% %' THEN quote_literal(undone) ELSE undone END)
        );
    END IF;
    IF NOT without_workspace THEN
        SELECT attempt INTO kept FROM moonyard.kept_workspaces WHERE job_id = job AND expires_at > now();
        IF NOT FOUND THEN
            PERFORM moonyard.refuse(
                'workspace_not_kept',
                format(
                    'job %s cannot begin with stage `%s`: %s, so the files that the stages before it made are gone',
                    ended.number, first.name,
                    CASE WHEN ended.definition ->> 'keep_workspace' IS NULL THEN 'its pipeline does not say `keep_workspace`'
                        ELSE 'no workspace of it is kept, or no longer' END
                ),
                'Where the stage needs none of those files, `--without-workspace` begins with an empty workspace; otherwise retry from the start.'
            );
        END IF;
    END IF;
    place := moonyard.job_retry(job, actor);
    UPDATE moonyard.jobs SET resume = jsonb_build_object('stage', first.name, 'workspace', NOT without_workspace) WHERE id = job;
    RETURN place;
END $$;
COMMENT ON FUNCTION moonyard.job_resume IS 'Queues a job that ended once more, to begin with a stage: those before it are skipped. It gives its place.';

-- Stages that wait for somebody's yes. A pipeline's file says so of its own stages; a protection says so of stages
-- whatever their file says.

CREATE TABLE moonyard.protections (
    id uuid PRIMARY KEY,
    pipelines text NOT NULL,
    stages text NOT NULL,
    approvals integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    CONSTRAINT protection_is_unique UNIQUE (pipelines, stages),
    CONSTRAINT protection_says_something CHECK (pipelines <> '' AND stages <> '' AND approvals BETWEEN 1 AND 10)
);
COMMENT ON TABLE moonyard.protections IS 'Stages that wait for approvals whatever their pipeline''s file says. In names, * stands for any text.';

CREATE TABLE moonyard.approvals (
    job_id uuid NOT NULL REFERENCES moonyard.jobs (id) ON DELETE CASCADE,
    stage text NOT NULL,
    attempt integer NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    needed integer NOT NULL,
    message text,
    asked_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT approvals_pkey PRIMARY KEY (job_id, stage),
    CONSTRAINT approval_state_is_known CHECK (state IN ('waiting', 'approved', 'refused')),
    CONSTRAINT approvals_needed_in_range CHECK (needed BETWEEN 1 AND 10)
);
COMMENT ON TABLE moonyard.approvals IS 'Stages that wait for an approval, or waited for one. `attempt` is the one that it holds for; an attempt that takes the place of one that was lost or failed, without anybody''s retry, takes it over.';
CREATE INDEX approvals_waiting ON moonyard.approvals (expires_at) WHERE state = 'waiting';

CREATE TABLE moonyard.approval_answers (
    job_id uuid NOT NULL,
    stage text NOT NULL,
    who text NOT NULL,
    is_yes boolean NOT NULL,
    comment text,
    answered_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT approval_answers_pkey PRIMARY KEY (job_id, stage, who),
    CONSTRAINT answer_is_to_an_approval FOREIGN KEY (job_id, stage) REFERENCES moonyard.approvals (job_id, stage) ON DELETE CASCADE
);
COMMENT ON TABLE moonyard.approval_answers IS 'Who said yes or no to a stage.';

CREATE INDEX audit_of_job_people ON moonyard.audit (subject)
    WHERE action IN ('retry', 'create', 'create hook', 'change hook', 'rotate hook', 'push');

-- Not by the audit alone, whose rows may be kept for 30 days only.
ALTER TABLE moonyard.schedules ADD COLUMN created_by text;
COMMENT ON COLUMN moonyard.schedules.created_by IS 'Who made it: NULL for one of an earlier version that the audit says nothing of.';
UPDATE moonyard.schedules AS schedule SET created_by = (
    SELECT actor FROM moonyard.audit WHERE action = 'create' AND subject = 'schedule ' || schedule.name ORDER BY id DESC LIMIT 1
);

CREATE FUNCTION moonyard.who(actor text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN regexp_replace(regexp_replace(actor, '^(account [^ ]+) \(token .*\)$', '\1'), '^token ', '');
COMMENT ON FUNCTION moonyard.who IS 'Whom an actor of the audit stands for: an account, whichever of its tokens was used.';

CREATE FUNCTION moonyard.job_people(job uuid) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT ARRAY(
        SELECT moonyard.who(known.trigger ->> 'by') FROM moonyard.jobs AS known
        WHERE known.id = job_people.job AND known.trigger ->> 'kind' IN ('submit', 'psql') AND known.trigger ->> 'by' IS NOT NULL
        UNION
        SELECT moonyard.who(done.actor) FROM moonyard.jobs AS known
        JOIN moonyard.audit AS done ON done.action = 'retry' AND done.subject = 'job ' || known.number
        WHERE known.id = job_people.job
        UNION
        -- Whoever made the schedule, or knows the hook's secret, has the job made.
        SELECT moonyard.who(schedule.created_by) FROM moonyard.jobs AS known
        JOIN moonyard.schedules AS schedule ON known.trigger ->> 'kind' = 'schedule' AND schedule.name = known.trigger ->> 'by'
        WHERE known.id = job_people.job AND schedule.created_by IS NOT NULL
        UNION
        SELECT moonyard.who(maker) FROM moonyard.jobs AS known
        JOIN moonyard.hooks AS hook ON known.trigger ->> 'kind' = 'webhook' AND hook.name = known.trigger ->> 'by'
        CROSS JOIN LATERAL (
            SELECT hook.created_by UNION SELECT created_by FROM moonyard.hook_secrets WHERE hook_id = hook.id
        ) AS made (maker)
        WHERE known.id = job_people.job
        UNION
        -- By the audit also who did so to one that is gone by now, or changed it.
        SELECT moonyard.who(done.actor) FROM moonyard.jobs AS known
        JOIN moonyard.audit AS done ON done.action IN ('create', 'create hook', 'change hook', 'rotate hook')
            AND done.subject = CASE known.trigger ->> 'kind' WHEN 'schedule' THEN 'schedule ' WHEN 'webhook' THEN 'hook ' END
                || (known.trigger ->> 'by')
        WHERE known.id = job_people.job
        UNION
        -- Where nobody submitted it, nobody but who pushed it has chosen what it does.
        SELECT moonyard.who(done.actor) FROM moonyard.jobs AS known
        JOIN moonyard.pipelines AS pipeline ON pipeline.id = known.pipeline_id
        JOIN moonyard.pipeline_versions AS version ON version.id = known.version_id
        JOIN moonyard.audit AS done ON done.action = 'push' AND done.subject = 'pipeline ' || pipeline.name
            AND done.detail ->> 'version' = version.sha256
        WHERE known.id = job_people.job AND known.trigger ->> 'kind' IN ('schedule', 'webhook')
    )
$$;
COMMENT ON FUNCTION moonyard.job_people IS 'Who submitted a job, had it tried again, or set up the schedule or webhook that made it, and of these also who pushed its version: none of them approves its stages.';

CREATE FUNCTION moonyard.stage_approvals(job uuid, stages text[]) RETURNS TABLE (needed integer, message text, seconds double precision)
LANGUAGE sql STABLE AS $$
    -- What the file says of the stage, and what protections say of it by its own name or by that in the file.
    WITH asked AS (
        SELECT pipeline.name AS pipeline, (
            SELECT stage.value -> 'approval' FROM json_array_elements(version.definition -> 'stages') AS stage
            WHERE stage.value ->> 'name' = ANY (stage_approvals.stages) AND json_typeof(stage.value -> 'approval') = 'object'
            LIMIT 1
        ) AS approval
        FROM moonyard.jobs AS known
        JOIN moonyard.pipelines AS pipeline ON pipeline.id = known.pipeline_id
        JOIN moonyard.pipeline_versions AS version ON version.id = known.version_id
        WHERE known.id = stage_approvals.job
    ),
    protected AS (
        SELECT max(protection.approvals) AS approvals FROM moonyard.protections AS protection, asked
        WHERE moonyard.pattern_fits(protection.pipelines, asked.pipeline)
            AND EXISTS (SELECT FROM unnest(stage_approvals.stages) AS name WHERE moonyard.pattern_fits(protection.stages, name))
    )
    SELECT greatest((asked.approval ->> 'count')::integer, protected.approvals), asked.approval ->> 'message',
        coalesce((asked.approval ->> 'timeout')::double precision, 86400)
    FROM asked, protected
    WHERE asked.approval IS NOT NULL OR protected.approvals IS NOT NULL
$$;
COMMENT ON FUNCTION moonyard.stage_approvals IS 'How many approvals a stage of a job needs before it begins, and for how many seconds it waits; no row where it needs none.';

CREATE FUNCTION moonyard.approval_answer(job uuid, stage text, actor text, is_yes boolean, comment text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    asked record;
    whom CONSTANT text := moonyard.who(actor);
    outcome text;
BEGIN
    SELECT approval.*, known.number AS job_number,
        -- An attempt that takes the place of one that was lost asks in a moment, and takes over what was said till then.
        known.attempt <> approval.attempt OR known.state NOT IN ('running', 'queued')
            OR (known.state = 'queued' AND known.losses + known.failures = 0) AS is_gone
    INTO asked
    FROM moonyard.approvals AS approval JOIN moonyard.jobs AS known ON known.id = approval.job_id
    WHERE approval.job_id = approval_answer.job
        AND (approval_answer.stage IS NULL AND approval.state = 'waiting' OR approval.stage = approval_answer.stage)
    ORDER BY approval.asked_at
    LIMIT 1
    FOR UPDATE OF approval;
    IF NOT FOUND THEN
        PERFORM moonyard.refuse(
            'approval_unknown', 'no stage of this job waits for an approval' ||
                CASE WHEN approval_answer.stage IS NULL THEN '' ELSE ' by the name `' || left(approval_answer.stage, 120) || '`' END,
            '`moonyard approvals` lists what waits.'
        );
    END IF;
    IF asked.state <> 'waiting' OR asked.expires_at <= now() OR asked.is_gone THEN
        PERFORM moonyard.refuse(
            'approval_over', format('stage `%s` of job %s no longer waits: %s', asked.stage, asked.job_number, CASE
                WHEN asked.state <> 'waiting' THEN 'it is ' || asked.state
                WHEN asked.is_gone THEN 'the attempt that asked is over'
                ELSE 'it is too late'
            END), NULL
        );
    END IF;
    IF is_yes AND whom = ANY (moonyard.job_people(asked.job_id)) THEN
        PERFORM moonyard.refuse(
            'approval_own', format('job %s comes from %s, and somebody else has to approve its stage `%s`', asked.job_number, whom, asked.stage),
            'Ask somebody with permission `approve` for this pipeline.'
        );
    END IF;
    INSERT INTO moonyard.approval_answers (job_id, stage, who, is_yes, comment)
    VALUES (asked.job_id, asked.stage, whom, is_yes, comment)
    ON CONFLICT (job_id, stage, who) DO UPDATE SET is_yes = excluded.is_yes, comment = excluded.comment, answered_at = now();
    outcome := CASE
        WHEN NOT is_yes THEN 'refused'
        WHEN (
            SELECT count(*) FROM moonyard.approval_answers AS given
            WHERE given.job_id = asked.job_id AND given.stage = asked.stage AND given.is_yes
        ) >= asked.needed THEN 'approved'
        ELSE 'waiting'
    END;
    UPDATE moonyard.approvals AS approval SET state = outcome
    WHERE approval.job_id = asked.job_id AND approval.stage = asked.stage;
    PERFORM moonyard.note(
        actor, CASE WHEN is_yes THEN 'approve' ELSE 'refuse' END, 'job ' || asked.job_number,
        jsonb_strip_nulls(jsonb_build_object('stage', asked.stage, 'comment', comment))
    );
    PERFORM moonyard.tell('jobs', asked.job_id);
    RETURN outcome;
END $$;
COMMENT ON FUNCTION moonyard.approval_answer IS 'Says yes or no to a stage that waits; gives the state that it is in then. Without a stage, to the one that has waited longest.';

CREATE FUNCTION control.approve(job text, stage text DEFAULT NULL, comment text DEFAULT NULL) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT moonyard.approval_answer(moonyard.job_of(job), stage, session_user, true, comment) $$;
COMMENT ON FUNCTION control.approve IS 'Approves a stage of a job that waits for it: control.approve(''17''). Not of jobs that the session''s own user submitted.';

CREATE FUNCTION control.refuse(job text, stage text DEFAULT NULL, comment text DEFAULT NULL) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT moonyard.approval_answer(moonyard.job_of(job), stage, session_user, false, comment) $$;
COMMENT ON FUNCTION control.refuse IS 'Refuses a stage of a job that waits for an approval: the stage fails.';

CREATE VIEW inspect.approvals AS
SELECT known.number AS job, pipeline.name AS pipeline, approval.stage,
    CASE WHEN approval.state = 'waiting' AND (known.state <> 'running' OR known.attempt <> approval.attempt OR approval.expires_at <= now()) THEN 'over' ELSE approval.state END AS state,
    approval.needed, approval.message, approval.asked_at, approval.expires_at,
    ARRAY(
        SELECT given.who || CASE WHEN given.is_yes THEN ': yes' ELSE ': no' END || coalesce(' (' || given.comment || ')', '')
        FROM moonyard.approval_answers AS given
        WHERE given.job_id = approval.job_id AND given.stage = approval.stage ORDER BY given.answered_at
    ) AS answers
FROM moonyard.approvals AS approval
JOIN moonyard.jobs AS known ON known.id = approval.job_id
JOIN moonyard.pipelines AS pipeline ON pipeline.id = known.pipeline_id
ORDER BY approval.asked_at DESC;
COMMENT ON VIEW inspect.approvals IS 'Stages that wait for an approval, or waited for one, the newest first: act by control.approve and control.refuse.';

CREATE VIEW inspect.protections AS
SELECT pipelines, stages, approvals, created_at, created_by FROM moonyard.protections ORDER BY pipelines, stages;
COMMENT ON VIEW inspect.protections IS 'Stages that wait for approvals whatever their pipeline''s file says.';

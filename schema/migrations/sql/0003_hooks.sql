-- Webhooks: what a forge, or another program, tells starts jobs. docs/webhooks.md has the whole of it.

CREATE TABLE moonyard.hooks (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    pipeline_id uuid NOT NULL REFERENCES moonyard.pipelines (id),
    kind text NOT NULL,
    rules jsonb NOT NULL,
    last_secret integer NOT NULL DEFAULT 0,  -- no number comes twice, whatever has expired
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    paused_at timestamptz,
    paused_by text,
    refused bigint NOT NULL DEFAULT 0,
    refused_at timestamptz,
    refused_why text,
    CONSTRAINT hook_name_is_unique UNIQUE (name),
    CONSTRAINT hook_kind_is_known CHECK (kind IN ('github', 'gitlab', 'gitea', 'generic')),
    CONSTRAINT paused_hooks_have_a_pauser CHECK ((paused_at IS NULL) = (paused_by IS NULL))
);
COMMENT ON TABLE moonyard.hooks IS 'Webhooks: each starts jobs of one pipeline, for what is signed with a secret of its.';
COMMENT ON COLUMN moonyard.hooks.rules IS 'Which events, branches and tags start a job, and where its inputs come from (schema/hooks.py, HookRules).';
COMMENT ON COLUMN moonyard.hooks.refused IS 'How many requests came to it that were not signed with a secret of its: at least, for floods are counted once a while.';
CREATE INDEX hooks_of_pipeline ON moonyard.hooks (pipeline_id);

CREATE TABLE moonyard.hook_secrets (
    hook_id uuid NOT NULL REFERENCES moonyard.hooks (id) ON DELETE CASCADE,
    number integer NOT NULL,
    nonce bytea NOT NULL,
    ciphertext bytea NOT NULL,
    key_id text NOT NULL,
    wrapped_nonce bytea NOT NULL,
    wrapped_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    CONSTRAINT hook_secrets_pkey PRIMARY KEY (hook_id, number),
    CONSTRAINT hook_secrets_start_at_1 CHECK (number > 0),
    CONSTRAINT nonces_and_keys_of_hooks_have_their_lengths CHECK (
        length(nonce) = 12 AND length(wrapped_nonce) = 12 AND length(wrapped_key) = 48
    )
);
COMMENT ON TABLE moonyard.hook_secrets IS 'What signatures are checked with, encrypted as secrets are (moonyard.secret_versions); hook and number are bound into it.';
COMMENT ON COLUMN moonyard.hook_secrets.expires_at IS 'Until when it still holds beside the one that took its place; NULL for the newest.';
CREATE INDEX hook_secrets_of_key ON moonyard.hook_secrets (key_id);
CREATE INDEX hook_secrets_expiring ON moonyard.hook_secrets (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE moonyard.hook_deliveries (
    hook_id uuid NOT NULL REFERENCES moonyard.hooks (id) ON DELETE CASCADE,
    id bigint GENERATED ALWAYS AS IDENTITY,
    key text NOT NULL,
    delivery text NOT NULL,
    event text NOT NULL,
    sender text,
    received_at timestamptz NOT NULL DEFAULT now(),
    received integer NOT NULL DEFAULT 1,
    result text NOT NULL,
    reason text,
    error jsonb,
    job_id uuid REFERENCES moonyard.jobs (id) ON DELETE SET NULL,
    submitted_at timestamptz,
    -- By the hook first, and not by the id alone: the newest of a hook are then never looked for among those of all.
    CONSTRAINT hook_deliveries_pkey PRIMARY KEY (hook_id, id),
    CONSTRAINT delivery_is_remembered_once UNIQUE (hook_id, key),
    CONSTRAINT delivery_result_is_known CHECK (result IN ('submitted', 'skipped', 'failed', 'answered'))
);
COMMENT ON TABLE moonyard.hook_deliveries IS 'What hooks were told, verified, for 30 days and up to 10,000 each: the same again starts no second job.';
COMMENT ON COLUMN moonyard.hook_deliveries.key IS 'By which the same is known again: an id that is signed, or the hash of the body where the id is not.';
COMMENT ON COLUMN moonyard.hook_deliveries.received IS 'How often it came.';
COMMENT ON COLUMN moonyard.hook_deliveries.submitted_at IS 'When its job was submitted: from then on it is answered with that job. What started none is looked at anew when it comes again.';
CREATE INDEX hook_deliveries_received ON moonyard.hook_deliveries (received_at);
CREATE INDEX hook_deliveries_of_job ON moonyard.hook_deliveries (job_id) WHERE job_id IS NOT NULL;

COMMENT ON COLUMN moonyard.jobs.trigger IS 'What made it: {"kind": "submit" | "schedule" | "psql" | "webhook", "by": a token''s, schedule''s, user''s or hook''s name}; of a webhook also "delivery", "event" and "sender".';

-- What people read -----------------------------------------------------------------------------------------------

CREATE VIEW inspect.hooks AS
SELECT
    inspect.shortened(hook.name, 24) AS hook,
    inspect.shortened(pipeline.name, 20) AS pipeline,
    hook.kind,
    inspect.shortened(coalesce('paused by ' || hook.paused_by, 'active'), 24) AS state,
    inspect.duration(now() - newest.received_at) AS last_ago,
    newest.result AS last_result,
    newest.job AS last_job,
    (SELECT count(*) FROM moonyard.hook_secrets AS secret
     WHERE secret.hook_id = hook.id AND (secret.expires_at IS NULL OR secret.expires_at > now())) AS secrets,
    hook.refused
FROM moonyard.hooks AS hook
JOIN moonyard.pipelines AS pipeline ON pipeline.id = hook.pipeline_id
LEFT JOIN LATERAL (
    SELECT delivery.received_at, delivery.result, job.number AS job
    FROM moonyard.hook_deliveries AS delivery
    LEFT JOIN moonyard.jobs AS job ON job.id = delivery.job_id
    WHERE delivery.hook_id = hook.id
    ORDER BY delivery.id DESC
    LIMIT 1
) AS newest ON true
ORDER BY hook.name;
COMMENT ON VIEW inspect.hooks IS 'Webhooks, and what the newest delivery of each came to. secrets: how many hold now (2 while one is rotated); refused: requests that were not signed with any of them.';

CREATE VIEW inspect.hook_deliveries AS
SELECT
    to_char(delivery.received_at, 'MM-DD HH24:MI:SS') AS at,
    inspect.shortened(hook.name, 16) AS hook,
    inspect.shortened(delivery.event, 14) AS event,
    delivery.result,
    job.number AS job,
    delivery.received AS came,
    inspect.shortened(delivery.sender, 14) AS sender,
    inspect.shortened(coalesce(delivery.reason, delivery.error ->> 'message'), 40) AS why
FROM moonyard.hook_deliveries AS delivery
JOIN moonyard.hooks AS hook ON hook.id = delivery.hook_id
LEFT JOIN moonyard.jobs AS job ON job.id = delivery.job_id
ORDER BY delivery.received_at DESC, delivery.id DESC;
COMMENT ON VIEW inspect.hook_deliveries IS 'What webhooks were told, the newest first, and the job of it, or why there is none. came: how often the same was delivered.';

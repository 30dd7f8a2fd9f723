-- Secrets, and who may have them. What is stored of a value can be read with the master key alone, which is in no
-- database: docs/secrets.md has the whole of it.

CREATE TABLE moonyard.secrets (
    id uuid PRIMARY KEY,
    scope text NOT NULL DEFAULT '',  -- the pipeline that it is for alone; empty where any may be granted it
    name text NOT NULL,
    last_version integer NOT NULL DEFAULT 0,  -- no number comes twice, whatever was removed
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    CONSTRAINT secret_name_is_unique_in_its_scope UNIQUE (scope, name),
    CONSTRAINT secret_name_is_that_of_a_variable CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,99}$')
);
COMMENT ON TABLE moonyard.secrets IS 'Names of secrets; their values are in secret_versions.';
COMMENT ON COLUMN moonyard.secrets.scope IS 'The pipeline whose secret it is; empty for one that any pipeline may be granted.';

CREATE TABLE moonyard.secret_versions (
    id uuid PRIMARY KEY,
    secret_id uuid NOT NULL REFERENCES moonyard.secrets (id) ON DELETE CASCADE,
    number integer NOT NULL,
    readable boolean NOT NULL,
    nonce bytea NOT NULL,
    ciphertext bytea NOT NULL,
    key_id text NOT NULL,
    wrapped_nonce bytea NOT NULL,
    wrapped_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    CONSTRAINT secret_version_is_unique UNIQUE (secret_id, number),
    CONSTRAINT secret_versions_start_at_1 CHECK (number > 0),
    CONSTRAINT nonces_and_keys_have_their_lengths CHECK (
        length(nonce) = 12 AND length(wrapped_nonce) = 12 AND length(wrapped_key) = 48
    )
);
COMMENT ON TABLE moonyard.secret_versions IS 'Values of secrets under AES-256-GCM: each under a key of its own, which is under a master key. Secret, number, name and scope are bound into both, so a row that stands in another''s place is found out.';
COMMENT ON COLUMN moonyard.secret_versions.readable IS 'A script may read it; otherwise it goes into commands'' environments alone. Bound into the ciphertext.';
COMMENT ON COLUMN moonyard.secret_versions.key_id IS 'The master key that wraps this one''s key: the beginning of a hash of it.';
CREATE INDEX secret_versions_of_key ON moonyard.secret_versions (key_id);

CREATE TABLE moonyard.grants (
    id uuid PRIMARY KEY,
    secret_id uuid NOT NULL REFERENCES moonyard.secrets (id) ON DELETE CASCADE,
    pipeline text NOT NULL,
    stages text[],
    inputs jsonb,
    runners uuid[],
    follows boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    CONSTRAINT grant_says_something CHECK (
        pipeline <> '' AND cardinality(stages) > 0 AND inputs <> '{}' AND cardinality(runners) > 0
    )
);
COMMENT ON TABLE moonyard.grants IS 'What lets jobs have a secret: without one that fits there is none. In names and values, * stands for any text.';
COMMENT ON COLUMN moonyard.grants.stages IS 'NULL for any.';
COMMENT ON COLUMN moonyard.grants.inputs IS 'What the job''s inputs have to be, one of the values of each: {"ref": ["main", "release/*"]}. NULL for anything.';
COMMENT ON COLUMN moonyard.grants.runners IS 'By id: a name can be taken by whoever registers a runner. NULL for any.';
COMMENT ON COLUMN moonyard.grants.follows IS 'It holds for whatever version of the pipeline runs; otherwise for those in grant_confirmations.';
CREATE INDEX grants_of_secret ON moonyard.grants (secret_id);

CREATE TABLE moonyard.grant_confirmations (
    grant_id uuid NOT NULL REFERENCES moonyard.grants (id) ON DELETE CASCADE,
    version_id uuid NOT NULL REFERENCES moonyard.pipeline_versions (id),
    confirmed_at timestamptz NOT NULL DEFAULT now(),
    confirmed_by text NOT NULL,
    CONSTRAINT grant_confirmations_pkey PRIMARY KEY (grant_id, version_id)
);
COMMENT ON TABLE moonyard.grant_confirmations IS 'Versions of pipelines that somebody with that right let have what their pipeline was granted.';

ALTER TABLE moonyard.attempts ADD COLUMN secret_versions uuid[], ADD COLUMN secret_requests integer;
COMMENT ON COLUMN moonyard.attempts.secret_versions IS 'What was delivered to it; NULL for nothing. Its events are looked through for these before they are stored.';
COMMENT ON COLUMN moonyard.attempts.secret_requests IS 'How often it asked for a secret.';

CREATE INDEX audit_of_leaks ON moonyard.audit (at) WHERE action = 'send secret in plain';
CREATE INDEX audit_of_deliveries ON moonyard.audit (id) WHERE action IN ('deliver secret', 'refuse secret');

-- Functions ------------------------------------------------------------------------------------------------------

CREATE FUNCTION moonyard.pattern_fits(pattern text, value text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN value LIKE replace(replace(replace(replace(pattern, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%');
COMMENT ON FUNCTION moonyard.pattern_fits IS 'Whether a value is what a pattern says, in which * stands for any text.';

CREATE FUNCTION moonyard.secret_reference(scope text, name text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN scope = '' THEN name ELSE scope || '/' || name END;
COMMENT ON FUNCTION moonyard.secret_reference IS 'Names a secret as people do: TOKEN, or build/TOKEN where it is pipeline build''s alone.';

CREATE FUNCTION moonyard.secret_of(secret text) RETURNS moonyard.secrets
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found moonyard.secrets;
BEGIN
    SELECT * INTO found FROM moonyard.secrets AS known
    WHERE known.scope = CASE WHEN position('/' IN secret) > 0 THEN split_part(secret, '/', 1) ELSE '' END
        AND known.name = CASE WHEN position('/' IN secret) > 0 THEN substr(secret, position('/' IN secret) + 1) ELSE secret END;
    IF found.id IS NULL THEN
        PERFORM moonyard.refuse(
            'secret_unknown', format('there is no secret `%s`', left(secret, 200)),
            'inspect.secrets and `moonyard secret list` show which there are; one that is a pipeline''s alone is named PIPELINE/NAME.'
        );
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION moonyard.secret_of IS 'Finds a secret by its name, or by PIPELINE/NAME where it is a pipeline''s alone.';

CREATE FUNCTION moonyard.secret_remove(secret text, actor text, version integer DEFAULT NULL)
RETURNS TABLE (versions bigint, grants bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    target moonyard.secrets := moonyard.secret_of(secret);
BEGIN
    PERFORM FROM moonyard.secrets WHERE id = target.id FOR UPDATE;
    grants := 0;
    IF secret_remove.version IS NULL THEN
        SELECT count(*) INTO grants FROM moonyard.grants AS held WHERE held.secret_id = target.id;
        SELECT count(*) INTO versions FROM moonyard.secret_versions AS held WHERE held.secret_id = target.id;
        DELETE FROM moonyard.secrets WHERE id = target.id;
    ELSE
        IF (SELECT count(*) FROM moonyard.secret_versions AS held WHERE held.secret_id = target.id) = 1
            AND EXISTS (SELECT FROM moonyard.secret_versions AS held WHERE held.secret_id = target.id AND held.number = secret_remove.version)
        THEN
            PERFORM moonyard.refuse(
                'secret_version_last', format('version %s of secret `%s` is its only one', secret_remove.version, secret),
                'Set a new value first, or remove the secret.'
            );
        END IF;
        DELETE FROM moonyard.secret_versions AS held WHERE held.secret_id = target.id AND held.number = secret_remove.version;
        GET DIAGNOSTICS versions = ROW_COUNT;
        IF versions = 0 THEN
            PERFORM moonyard.refuse(
                'secret_version_unknown', format('secret `%s` has no version %s', secret, secret_remove.version),
                '`moonyard secret versions` lists those that there are.'
            );
        END IF;
    END IF;
    PERFORM moonyard.note(
        secret_remove.actor, 'remove secret', 'secret ' || moonyard.secret_reference(target.scope, target.name),
        jsonb_strip_nulls(jsonb_build_object('version', secret_remove.version, 'grants', grants))
    );
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION moonyard.secret_remove IS 'Removes a secret with its versions and grants, or one version of it.';

CREATE FUNCTION moonyard.grant_check(target uuid, pipeline text, stages text[], inputs jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    definition json := (
        SELECT version.definition FROM moonyard.pipelines AS known
        JOIN moonyard.pipeline_versions AS version ON version.id = known.version_id
        WHERE known.id = target
    );
    known_stages text[] := ARRAY(
        SELECT DISTINCT coalesce(stage ->> 'of', stage ->> 'name')
        FROM unnest(ARRAY['stages', 'on_cancel', 'finally']) AS part
        CROSS JOIN LATERAL json_array_elements(coalesce(definition -> part, '[]')) AS stage
        ORDER BY 1
    );
    known_inputs text[] := ARRAY(SELECT json_object_keys(coalesce(definition -> 'inputs', '{}')) ORDER BY 1);
    wrong text;
BEGIN
    IF definition IS NULL THEN
        RETURN;
    END IF;
    SELECT named INTO wrong FROM unnest(stages) AS named
    WHERE named <> ALL (known_stages) AND position('*' IN named) = 0 AND NOT EXISTS (
        SELECT FROM json_array_elements(definition -> 'stages') AS stage WHERE stage ->> 'name' = named
    )
    LIMIT 1;
    IF wrong IS NOT NULL THEN
        PERFORM moonyard.refuse(
            'grant_invalid', format('pipeline `%s` has no stage `%s`', pipeline, left(wrong, 100)),
            'Its stages are: ' || array_to_string(known_stages, ', ') || '.'
        );
    END IF;
    SELECT named INTO wrong FROM jsonb_object_keys(coalesce(inputs, '{}')) AS named WHERE named <> ALL (known_inputs) LIMIT 1;
    IF wrong IS NOT NULL THEN
        PERFORM moonyard.refuse(
            'grant_invalid', format('pipeline `%s` has no input `%s`', pipeline, left(wrong, 100)),
            'Its inputs are: ' || coalesce(nullif(array_to_string(known_inputs, ', '), ''), 'none') || '.'
        );
    END IF;
END $$;
COMMENT ON FUNCTION moonyard.grant_check IS 'Refuses a grant for a stage or an input that the pipeline''s newest version does not have: a mistyped name grants nothing.';

CREATE FUNCTION moonyard.grant_add(
    secret text, pipeline text, stages text[], inputs jsonb, runners text[], follows boolean, actor text
) RETURNS uuid
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    target moonyard.secrets := moonyard.secret_of(grant_add.secret);
    made CONSTANT uuid := moonyard.uuid7();
    named text;
    meant uuid[];
    rule record;
BEGIN
    IF grant_add.pipeline !~ '^[A-Za-z0-9*][A-Za-z0-9._*-]{0,99}$' THEN
        PERFORM moonyard.refuse(
            'grant_invalid', format('`%s` is no name of a pipeline, nor a pattern of such', left(grant_add.pipeline, 100)),
            'For instance: build, or release-* for all whose names begin so.'
        );
    END IF;
    IF target.scope NOT IN ('', grant_add.pipeline) THEN
        PERFORM moonyard.refuse(
            'grant_invalid', format('secret `%s` is pipeline `%s`''s alone: pipeline `%s` cannot be granted it',
                grant_add.secret, target.scope, grant_add.pipeline)
        );
    END IF;
    IF cardinality(grant_add.stages) > 100 OR EXISTS (
        SELECT FROM unnest(grant_add.stages) AS stage WHERE stage IS NULL OR length(stage) NOT BETWEEN 1 AND 200
    ) THEN
        PERFORM moonyard.refuse('grant_invalid', 'stages of a grant are up to 100 names or patterns, of up to 200 characters');
    END IF;
    IF grant_add.inputs IS NOT NULL THEN
        IF jsonb_typeof(grant_add.inputs) <> 'object' THEN
            PERFORM moonyard.refuse('grant_invalid', 'inputs of a grant are an object of names with lists of values', '{"ref": ["main"]}');
        END IF;
        FOR rule IN SELECT key, value FROM jsonb_each(grant_add.inputs) LOOP
            IF jsonb_typeof(rule.value) <> 'array' OR jsonb_array_length(rule.value) NOT BETWEEN 1 AND 100 OR EXISTS (
                SELECT FROM jsonb_array_elements(rule.value) AS value WHERE jsonb_typeof(value) <> 'string'
            ) THEN
                PERFORM moonyard.refuse(
                    'grant_invalid', format('input `%s` of a grant has to be a list of 1 to 100 texts', left(rule.key, 100)),
                    'For instance: {"ref": ["main", "release/*"]}.'
                );
            END IF;
        END LOOP;
    END IF;
    IF position('*' IN grant_add.pipeline) = 0 THEN
        PERFORM moonyard.grant_check(
            moonyard.pipeline_of(grant_add.pipeline), grant_add.pipeline, grant_add.stages, grant_add.inputs
        );
    END IF;
    FOREACH named IN ARRAY coalesce(grant_add.runners, '{}') LOOP
        IF NOT EXISTS (SELECT FROM moonyard.runners AS runner WHERE runner.name = named OR runner.id::text = named) THEN
            PERFORM moonyard.refuse(
                'runner_unknown', format('there is no runner `%s`', left(named, 100)),
                'inspect.runners and `moonyard runner list` show which there are.'
            );
        END IF;
    END LOOP;
    SELECT array_agg(runner.id ORDER BY runner.id) INTO meant FROM moonyard.runners AS runner
    WHERE runner.name = ANY (grant_add.runners) OR runner.id::text = ANY (grant_add.runners);
    INSERT INTO moonyard.grants (id, secret_id, pipeline, stages, inputs, runners, follows, created_by)
    VALUES (
        made, target.id, grant_add.pipeline, nullif(grant_add.stages, '{}'), nullif(grant_add.inputs, '{}'), meant,
        grant_add.follows, grant_add.actor
    );
    -- Whoever grants knows what there is now.
    IF NOT grant_add.follows THEN
        INSERT INTO moonyard.grant_confirmations (grant_id, version_id, confirmed_by)
        SELECT made, known.version_id, grant_add.actor FROM moonyard.pipelines AS known
        WHERE known.version_id IS NOT NULL AND moonyard.pattern_fits(grant_add.pipeline, known.name);
    END IF;
    PERFORM moonyard.note(
        grant_add.actor, 'grant', 'secret ' || moonyard.secret_reference(target.scope, target.name),
        jsonb_strip_nulls(jsonb_build_object(
            'grant', made, 'pipeline', grant_add.pipeline, 'stages', nullif(grant_add.stages, '{}'),
            'inputs', nullif(grant_add.inputs, '{}'), 'runners', meant, 'follows', grant_add.follows
        ))
    );
    RETURN made;
END $$;
COMMENT ON FUNCTION moonyard.grant_add IS 'Lets a pipeline''s jobs have a secret; the newest version counts as confirmed.';

CREATE FUNCTION moonyard.grant_remove(target uuid, actor text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    gone record;
BEGIN
    DELETE FROM moonyard.grants AS held USING moonyard.secrets AS secret
    WHERE held.id = target AND secret.id = held.secret_id
    RETURNING moonyard.secret_reference(secret.scope, secret.name) AS secret, held.pipeline INTO gone;
    IF gone IS NULL THEN
        PERFORM moonyard.refuse(
            'grant_unknown', format('there is no grant %s', target), 'inspect.grants and `moonyard grant list` show which there are.'
        );
    END IF;
    PERFORM moonyard.note(actor, 'revoke', 'secret ' || gone.secret, jsonb_build_object('grant', target, 'pipeline', gone.pipeline));
END $$;
COMMENT ON FUNCTION moonyard.grant_remove IS 'Ends a grant: what was delivered already is not taken back.';

CREATE FUNCTION moonyard.grants_confirm(pipeline text, actor text, version text DEFAULT NULL, only_grant uuid DEFAULT NULL)
RETURNS TABLE (sha256 text, secrets text[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    target CONSTANT uuid := moonyard.pipeline_of(grants_confirm.pipeline);
    meant record;
BEGIN
    SELECT known.id, known.sha256 INTO meant FROM moonyard.pipeline_versions AS known
    JOIN moonyard.pipelines AS named ON named.id = target
    WHERE known.pipeline_id = target
        AND CASE WHEN grants_confirm.version IS NULL THEN known.id = named.version_id ELSE known.sha256 = grants_confirm.version END;
    IF meant IS NULL THEN
        PERFORM moonyard.refuse(
            'version_unknown', format('pipeline `%s` has no version `%s`', grants_confirm.pipeline, left(grants_confirm.version, 64)),
            'A version is named by all 64 hex digits of its source''s SHA-256.'
        );
    END IF;
    IF only_grant IS NOT NULL AND NOT EXISTS (
        SELECT FROM moonyard.grants AS held
        WHERE held.id = only_grant AND moonyard.pattern_fits(held.pipeline, grants_confirm.pipeline)
    ) THEN
        PERFORM moonyard.refuse(
            'grant_unknown', format('there is no grant %s of pipeline `%s`', only_grant, grants_confirm.pipeline),
            'inspect.grants and `moonyard grant list` show which there are.'
        );
    END IF;
    WITH confirmed AS (
        INSERT INTO moonyard.grant_confirmations AS made (grant_id, version_id, confirmed_by)
        SELECT held.id, meant.id, grants_confirm.actor FROM moonyard.grants AS held
        WHERE NOT held.follows AND moonyard.pattern_fits(held.pipeline, grants_confirm.pipeline)
            AND (only_grant IS NULL OR held.id = only_grant)
        ON CONFLICT (grant_id, version_id) DO NOTHING
        RETURNING made.grant_id
    )
    SELECT meant.sha256, coalesce(array_agg(DISTINCT moonyard.secret_reference(secret.scope, secret.name)), '{}')
    INTO sha256, secrets
    FROM confirmed
    JOIN moonyard.grants AS held ON held.id = confirmed.grant_id
    JOIN moonyard.secrets AS secret ON secret.id = held.secret_id;
    IF cardinality(secrets) > 0 THEN
        PERFORM moonyard.note(
            grants_confirm.actor, 'confirm grants', 'pipeline ' || grants_confirm.pipeline,
            jsonb_build_object('version', meant.sha256, 'secrets', secrets)
        );
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION moonyard.grants_confirm IS 'Lets a version of a pipeline, by default the newest, have what the pipeline was granted.';

CREATE FUNCTION moonyard.grants_fitting(secret uuid, job uuid, stages text[], runner uuid)
RETURNS TABLE (id uuid, is_confirmed boolean)
LANGUAGE sql STABLE AS $$
    SELECT held.id, held.follows OR EXISTS (
        SELECT FROM moonyard.grant_confirmations WHERE grant_id = held.id AND version_id = asking.version_id
    )
    FROM moonyard.grants AS held
    CROSS JOIN moonyard.jobs AS asking
    JOIN moonyard.pipelines AS pipeline ON pipeline.id = asking.pipeline_id
    WHERE held.secret_id = grants_fitting.secret AND asking.id = grants_fitting.job
        AND moonyard.pattern_fits(held.pipeline, pipeline.name)
        AND (held.stages IS NULL OR EXISTS (
            SELECT FROM unnest(held.stages) AS allowed, unnest(grants_fitting.stages) AS stage
            WHERE moonyard.pattern_fits(allowed, stage)
        ))
        -- An input that the job does not have fits nothing.
        AND (held.inputs IS NULL OR NOT EXISTS (
            SELECT FROM jsonb_each(held.inputs) AS rule
            WHERE NOT EXISTS (
                SELECT FROM jsonb_array_elements_text(rule.value) AS allowed
                WHERE moonyard.pattern_fits(allowed, asking.inputs ->> rule.key)
            )
        ))
        AND (held.runners IS NULL OR grants_fitting.runner = ANY (held.runners))
    ORDER BY 2 DESC, held.id;
$$;
COMMENT ON FUNCTION moonyard.grants_fitting IS 'The grants by which a job may have a secret in a stage, by any of the stage''s names, at a runner; confirmed ones first.';

CREATE FUNCTION control.grant(
    secret text, pipeline text, stages text[] DEFAULT NULL, inputs jsonb DEFAULT NULL, runners text[] DEFAULT NULL,
    follows boolean DEFAULT false
) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT moonyard.grant_add(secret, pipeline, stages, inputs, runners, follows, session_user);
$$;
COMMENT ON FUNCTION control.grant IS
    'Lets the jobs of a pipeline have a secret, and gives the grant''s id: SELECT control.grant(''TOKEN'', ''build'', stages => ''{deploy}'', inputs => ''{"ref": ["main"]}'');';

CREATE FUNCTION control.revoke(grant_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT moonyard.grant_remove(grant_id, session_user);
$$;
COMMENT ON FUNCTION control.revoke IS 'Ends a grant, by its id as inspect.grants has it.';

CREATE FUNCTION control.confirm_grants(pipeline text, version text DEFAULT NULL) RETURNS text[]
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT secrets FROM moonyard.grants_confirm(pipeline, session_user, version);
$$;
COMMENT ON FUNCTION control.confirm_grants IS
    'Lets a version of a pipeline, by default the newest, have what the pipeline was granted; gives the secrets that waited for it: SELECT control.confirm_grants(''build'');';

CREATE FUNCTION control.remove_secret(secret text, version integer DEFAULT NULL) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT versions FROM moonyard.secret_remove(secret, session_user, version);
$$;
COMMENT ON FUNCTION control.remove_secret IS 'Removes a secret with its grants, or one version of it, and says how many versions there were: SELECT control.remove_secret(''TOKEN'');';

-- What people read -----------------------------------------------------------------------------------------------

CREATE VIEW inspect.secrets AS
SELECT
    inspect.shortened(moonyard.secret_reference(secret.scope, secret.name), 28) AS secret,
    newest.number AS version,
    CASE WHEN newest.readable THEN 'readable' ELSE 'environment' END AS kind,
    newest.key_id AS key,
    (SELECT count(*) FROM moonyard.grants WHERE secret_id = secret.id) AS grants,
    inspect.shortened(newest.created_by, 20) AS set_by,
    inspect.duration(now() - newest.created_at) AS age
FROM moonyard.secrets AS secret
CROSS JOIN LATERAL (
    SELECT number, readable, key_id, created_by, created_at FROM moonyard.secret_versions
    WHERE secret_id = secret.id
    ORDER BY number DESC
    LIMIT 1
) AS newest
ORDER BY secret.scope, secret.name;
COMMENT ON VIEW inspect.secrets IS 'Secrets by name, never their values. kind: readable by scripts, or for commands'' environments alone; key: the master key''s id.';

CREATE VIEW inspect.grants AS
SELECT
    held.id AS "grant",
    inspect.shortened(moonyard.secret_reference(secret.scope, secret.name), 16) AS secret,
    inspect.shortened(held.pipeline, 12) AS pipeline,
    inspect.shortened(
        concat_ws(
            ', ', 'stage ' || array_to_string(held.stages, '|'),
            (
                SELECT string_agg(rule.key || '=' || (
                    SELECT string_agg(allowed, '|') FROM jsonb_array_elements_text(rule.value) AS allowed
                ), ', ')
                FROM jsonb_each(held.inputs) AS rule
            ),
            'runner ' || (SELECT string_agg(name, '|' ORDER BY name) FROM moonyard.runners WHERE id = ANY (held.runners))
        ), 28
    ) AS narrowed_to,
    CASE
        WHEN held.follows THEN 'any'
        WHEN waiting.pipelines > 0 THEN 'to confirm'
        ELSE 'confirmed'
    END AS versions
FROM moonyard.grants AS held
JOIN moonyard.secrets AS secret ON secret.id = held.secret_id
CROSS JOIN LATERAL (
    SELECT count(*) AS pipelines FROM moonyard.pipelines AS pipeline
    WHERE NOT held.follows AND pipeline.version_id IS NOT NULL AND moonyard.pattern_fits(held.pipeline, pipeline.name)
        AND NOT EXISTS (
            SELECT FROM moonyard.grant_confirmations AS confirmed
            WHERE confirmed.grant_id = held.id AND confirmed.version_id = pipeline.version_id
        )
) AS waiting
ORDER BY secret.scope, secret.name, held.pipeline, held.id;
COMMENT ON VIEW inspect.grants IS 'Which pipelines may have which secrets. versions: whether the newest version of the pipeline may have it, or somebody has to confirm that first.';

CREATE VIEW inspect.secret_deliveries AS
SELECT
    to_char(at, 'MM-DD HH24:MI:SS') AS at,
    CASE action WHEN 'deliver secret' THEN 'delivered' ELSE replace(substr(detail ->> 'why', 8), '_', ' ') END AS result,
    inspect.shortened(substr(subject, 8), 16) AS secret,
    (detail ->> 'version')::integer AS version,
    (detail ->> 'job')::bigint AS job,
    (detail ->> 'attempt')::integer AS attempt,
    inspect.shortened(detail ->> 'stage', 12) AS stage,
    CASE detail ->> 'use' WHEN 'environment' THEN 'env' ELSE detail ->> 'use' END AS use,
    inspect.shortened(substr(actor, 8), 12) AS runner
FROM moonyard.audit
WHERE action IN ('deliver secret', 'refuse secret')
ORDER BY id DESC;
COMMENT ON VIEW inspect.secret_deliveries IS 'Who got which secret for which job, and who was refused one, the newest first.';

-- To let somebody have a secret is more than to operate: of these, operators may only take away.
REVOKE EXECUTE ON FUNCTION control.grant, control.revoke, control.confirm_grants, control.remove_secret FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON inspect.secrets, inspect.grants, inspect.secret_deliveries TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT SELECT ON inspect.secrets, inspect.grants, inspect.secret_deliveries TO moonyard_operator;
        GRANT EXECUTE ON FUNCTION control.revoke TO moonyard_operator;
    END IF;
END $$;

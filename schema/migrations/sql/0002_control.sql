-- What operators do in psql: by the same functions as the API, each with a row in the audit under the session's user.

CREATE FUNCTION moonyard.uuid7() RETURNS uuid
LANGUAGE sql VOLATILE
RETURN encode(
    set_bit(set_bit(
        overlay(
            uuid_send(gen_random_uuid())
            PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
        ), 52, 1), 53, 1),
    'hex'
)::uuid;
COMMENT ON FUNCTION moonyard.uuid7 IS 'Makes a UUIDv7, as the application does (Postgres'' own comes with 18).';

CREATE FUNCTION moonyard.input_value(kind text, given json) RETURNS json
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    shape text := json_typeof(given);
    word text := given #>> '{}';
    read double precision;
BEGIN
    CASE
        WHEN kind = 'string' AND shape = 'string' THEN
            RETURN given;
        WHEN kind = 'boolean' AND shape = 'boolean' THEN
            RETURN given;
        WHEN kind = 'boolean' AND shape = 'string' AND word IN ('true', 'yes', '1') THEN
            RETURN 'true';
        WHEN kind = 'boolean' AND shape = 'string' AND word IN ('false', 'no', '0') THEN
            RETURN 'false';
        WHEN kind = 'integer' AND (shape = 'number' AND word::numeric % 1 = 0 OR shape = 'string' AND word ~ '^\s*[+-]?\d+\s*$') THEN
            RETURN to_json(trunc(word::numeric)::bigint);
        WHEN kind = 'number' AND shape = 'number' THEN
            read := word::double precision;  -- raises for what a double cannot hold
            RETURN given;
        WHEN kind = 'number' AND shape = 'string' AND word ~ '^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$' THEN
            read := word::double precision;
            -- With a fraction: to Lua, 3 and 3.0 are not the same.
            RETURN CASE WHEN read::text ~ '^-?\d+$' THEN read::text || '.0' ELSE read::text END::json;
        ELSE
            RETURN NULL;
    END CASE;
EXCEPTION WHEN numeric_value_out_of_range THEN
    RETURN NULL;
END $$;
COMMENT ON FUNCTION moonyard.input_value IS 'Reads a value as an input of a type, or gives NULL: as schema/definition.py does.';

CREATE FUNCTION moonyard.resolve_inputs(definition json, given json) RETURNS json
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    declared record;
    taken json;
    asked record;
    problems text[] := '{}';
    resolved text[] := '{}';
BEGIN
    IF json_typeof(given) <> 'object' THEN
        PERFORM moonyard.refuse('inputs_invalid', 'inputs have to be a JSON object of names and values');
    END IF;
    FOR asked IN SELECT key FROM json_each(given) LOOP
        IF definition -> 'inputs' -> asked.key IS NULL THEN
            problems := problems || format(
                '`%s` is not an input (inputs of `%s`: %s)', asked.key, definition ->> 'name',
                coalesce((SELECT string_agg('`' || key || '`', ', ') FROM json_each(definition -> 'inputs')), 'none')
            );
        END IF;
    END LOOP;
    FOR declared IN SELECT key AS name, input.value AS input FROM json_each(definition -> 'inputs') AS input LOOP
        IF given -> declared.name IS NULL THEN
            IF declared.input ->> 'default' IS NULL THEN
                problems := problems || format('`%s` (%s) is required and was not given', declared.name, declared.input ->> 'type');
                CONTINUE;
            END IF;
            taken := declared.input -> 'default';
        ELSE
            taken := moonyard.input_value(declared.input ->> 'type', given -> declared.name);
            IF taken IS NULL THEN
                problems := problems || format(
                    '`%s` must be of type %s, got `%s`', declared.name, declared.input ->> 'type', given ->> declared.name
                );
                CONTINUE;
            END IF;
            IF json_typeof(declared.input -> 'choices') = 'array' AND NOT EXISTS (
                SELECT FROM json_array_elements(declared.input -> 'choices') AS choice WHERE choice::jsonb = taken::jsonb
            ) THEN
                problems := problems || format('`%s` must be one of %s, got `%s`', declared.name, (
                    SELECT string_agg('`' || choice || '`', ', ')
                    FROM json_array_elements_text(declared.input -> 'choices') AS choice
                ), taken #>> '{}');
                CONTINUE;
            END IF;
        END IF;
        resolved := resolved || (to_json(declared.name) || ':' || taken);
    END LOOP;
    IF problems <> '{}' THEN
        PERFORM moonyard.refuse(
            'inputs_invalid',
            format('inputs of pipeline `%s` are wrong: %s', definition ->> 'name', array_to_string(problems, '; ')),
            'inspect.pipeline(name) shows which there are.'
        );
    END IF;
    RETURN '{' || array_to_string(resolved, ',') || '}';
END $$;
COMMENT ON FUNCTION moonyard.resolve_inputs IS 'Checks inputs against a definition and fills in the defaults: as schema/definition.py does.';

CREATE SCHEMA control;
COMMENT ON SCHEMA control IS 'What operators do, by the same rules as the API: SELECT control.cancel(17); \df+ control.* lists all.';

CREATE FUNCTION control.submit(
    pipeline text, inputs json DEFAULT '{}', version text DEFAULT NULL, priority integer DEFAULT NULL,
    delay interval DEFAULT NULL, not_before timestamptz DEFAULT NULL, queue_timeout interval DEFAULT NULL,
    idempotency_key text DEFAULT NULL, keep_on_failure interval DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    target uuid := moonyard.pipeline_of(pipeline);
    chosen record;
    made record;
BEGIN
    SELECT stored.id, stored.definition INTO chosen
    FROM moonyard.pipeline_versions AS stored JOIN moonyard.pipelines AS named ON named.id = stored.pipeline_id
    WHERE named.id = target AND CASE WHEN version IS NULL THEN stored.id = named.version_id ELSE stored.sha256 = version END;
    IF NOT FOUND THEN
        PERFORM moonyard.refuse(
            'version_unknown', format('pipeline `%s` has no version `%s`', pipeline, version),
            'A version is named by all 64 hex digits of its source''s SHA-256.'
        );
    END IF;
    IF priority NOT BETWEEN -100 AND 100 THEN
        PERFORM moonyard.refuse('request_invalid', format('priority is %s, and goes from -100 to 100', priority));
    END IF;
    IF delay IS NOT NULL AND not_before IS NOT NULL THEN
        PERFORM moonyard.refuse('request_invalid', 'delay and not_before say the same in two ways: give one of them');
    END IF;
    IF delay < interval '0' OR queue_timeout <= interval '0' OR keep_on_failure <= interval '0' THEN
        PERFORM moonyard.refuse('request_invalid', 'delay, queue_timeout and keep_on_failure are more than zero');
    END IF;
    IF length(idempotency_key) NOT BETWEEN 1 AND 200 THEN
        PERFORM moonyard.refuse('request_invalid', 'an idempotency key has 1 to 200 characters');
    END IF;
    SELECT * INTO made FROM moonyard.jobs_submit(json_build_array(json_build_object(
        'place', 1, 'id', moonyard.uuid7(), 'pipeline_id', target, 'version_id', chosen.id,
        'inputs', moonyard.resolve_inputs(chosen.definition, inputs),
        'idempotency_key', idempotency_key,
        'request', jsonb_strip_nulls(jsonb_build_object(
            'version', version, 'inputs', inputs, 'priority', priority, 'delay', extract(epoch FROM delay)::double precision,
            'not_before', not_before, 'queue_timeout', extract(epoch FROM queue_timeout)::double precision,
            'keep_on_failure', extract(epoch FROM keep_on_failure)::double precision
        )),
        'priority', priority, 'delay', extract(epoch FROM delay), 'not_before', not_before,
        'queue_timeout', extract(epoch FROM queue_timeout), 'keep_on_failure', extract(epoch FROM keep_on_failure),
        'actor', session_user, 'trigger', json_build_object('kind', 'psql', 'by', session_user)
    )));
    PERFORM moonyard.tell_queued(made.queue_place);
    RETURN made.number;
END $$;
COMMENT ON FUNCTION control.submit IS
    'Submits a job and gives its number: SELECT control.submit(''build'', ''{"ref": "main"}'', priority => 10);';

CREATE FUNCTION control.cancel(job text, force boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found uuid := moonyard.job_of(job);
    done record;
BEGIN
    SELECT * INTO done FROM moonyard.job_cancel(found, session_user, force);
    PERFORM moonyard.tell('jobs', found);
    IF done.runner IS NOT NULL THEN
        PERFORM moonyard.tell('runners', done.runner);
        RETURN 'its runner was told';
    END IF;
    RETURN 'cancelled';
END $$;
COMMENT ON FUNCTION control.cancel(text, boolean) IS
    'Cancels a job, by number or id: at once while it waits; while it runs, its runner stops it, with force at once. SELECT control.cancel(''17'', force => true);';

CREATE FUNCTION control.cancel(job bigint, force boolean DEFAULT false) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN control.cancel(job::text, force);
COMMENT ON FUNCTION control.cancel(bigint, boolean) IS 'Cancels a job, by number: SELECT control.cancel(17);';

CREATE FUNCTION control.retry(job text, from_stage text DEFAULT NULL, without_workspace boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found uuid := moonyard.job_of(job);
    place bigint;
BEGIN
    IF from_stage IS NULL THEN
        place := moonyard.job_retry(found, session_user);
    ELSE
        place := moonyard.job_resume(found, session_user, from_stage, without_workspace);
    END IF;
    PERFORM moonyard.tell('jobs', found);
    PERFORM moonyard.tell_queued(place);
    RETURN 'queued as attempt ' || (SELECT attempt + 1 FROM moonyard.jobs WHERE id = found);
END $$;
COMMENT ON FUNCTION control.retry(text, text, boolean) IS
    'Queues a job that ended once more, by number or id, as its next attempt, which may begin with a later stage: SELECT control.retry(''17'', from_stage => ''deploy'');';

CREATE FUNCTION control.retry(job bigint, from_stage text DEFAULT NULL, without_workspace boolean DEFAULT false) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN control.retry(job::text, from_stage, without_workspace);
COMMENT ON FUNCTION control.retry(bigint, text, boolean) IS 'Queues a job that ended once more, by number: SELECT control.retry(17);';

CREATE FUNCTION control.release(job text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(moonyard.tell('runners', keeping))
    FROM moonyard.containers_release(moonyard.job_of(job), session_user) AS keeping;
$$;
COMMENT ON FUNCTION control.release(text) IS
    'Has the kept containers of a job, by number or id, removed before their time: SELECT control.release(''17'');';

CREATE FUNCTION control.release(job bigint) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN control.release(job::text);
COMMENT ON FUNCTION control.release(bigint) IS 'Has the kept containers of a job removed, by number: SELECT control.release(17);';

CREATE FUNCTION control.pause(pipeline text DEFAULT NULL) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT moonyard.pause(pipeline, session_user);
$$;
COMMENT ON FUNCTION control.pause IS
    'Lets the jobs of a pipeline wait, or all; what runs goes on. SELECT control.pause(''build''); SELECT control.pause();';

CREATE FUNCTION control.resume(pipeline text DEFAULT NULL) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT moonyard.resume(pipeline, session_user);
    SELECT moonyard.jobs_release(1000);
    SELECT moonyard.tell('queue');
$$;
COMMENT ON FUNCTION control.resume IS
    'Ends what control.pause began: SELECT control.resume(''build''); SELECT control.resume();';

CREATE FUNCTION control.drain(runner text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(moonyard.tell('runners', drained)) FROM moonyard.drain(runner, true, session_user) AS drained;
$$;
COMMENT ON FUNCTION control.drain IS
    'Lets no more jobs go to the runners of that name or id, and says how many they are; what runs goes on.';

CREATE FUNCTION control.undrain(runner text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(moonyard.tell('runners', drained)) FROM moonyard.drain(runner, false, session_user) AS drained;
$$;
COMMENT ON FUNCTION control.undrain IS 'Ends what control.drain began: SELECT control.undrain(''builder-1'');';

-- A role for people who may act, and look.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        CREATE ROLE moonyard_operator NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
    NULL;
END $$;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA control FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT USAGE ON SCHEMA control, inspect TO moonyard_operator;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA control TO moonyard_operator;
    END IF;
END $$;

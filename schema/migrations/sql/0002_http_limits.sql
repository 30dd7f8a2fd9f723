-- How often all runners together may ask a host by `http`. Runners take permits in batches (orchestrator/http_limits.py).

CREATE TABLE moonyard.http_limits (
    host text NOT NULL,
    rate text NOT NULL,
    interval_seconds double precision NOT NULL,
    burst integer NOT NULL,
    next_at timestamptz NOT NULL DEFAULT now(),
    permits bigint NOT NULL DEFAULT 0,
    asked_at timestamptz,
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT http_limit_is_set_once PRIMARY KEY (host),
    CONSTRAINT http_limit_interval_in_range CHECK (interval_seconds BETWEEN 1e-6 AND 86400),
    CONSTRAINT http_limit_burst_in_range CHECK (burst BETWEEN 1 AND 1000000)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE moonyard.http_limits IS 'Ceilings that all runners share, by host or pattern: few rows, each changed once a batch of permits.';
COMMENT ON COLUMN moonyard.http_limits.rate IS 'As it was written: 50/s, 30/m, 1000/h.';
COMMENT ON COLUMN moonyard.http_limits.interval_seconds IS 'From one request to the next, in the long run.';
COMMENT ON COLUMN moonyard.http_limits.next_at IS 'When the next permit is due, were all spread evenly: all that is kept of a limit (ITU-T I.371).';
COMMENT ON COLUMN moonyard.http_limits.permits IS 'How many were handed out since it was set. Some lapse unused.';

CREATE FUNCTION moonyard.http_limit_host(host text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    clean text := rtrim(lower(btrim(host)), '.');
BEGIN
    IF clean IS NULL OR clean !~ '^[a-z0-9_*:][a-z0-9_.*:-]{0,252}$' OR clean ~ '^[^:]+:[0-9]+$' THEN
        PERFORM moonyard.refuse(
            'request_invalid', format('`%s` is no host', left(coalesce(host, ''), 80)),
            'A host is as URLs name it, without scheme and port: api.example.org, *.example.org, 10.0.0.7.'
        );
    END IF;
    RETURN clean;
END $$;
COMMENT ON FUNCTION moonyard.http_limit_host IS 'Gives a host, or a pattern of hosts, as it is stored, or refuses it.';

CREATE FUNCTION moonyard.http_limit_set(host text, rate text, burst integer, actor text) RETURNS moonyard.http_limits
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    clean CONSTANT text := moonyard.http_limit_host(http_limit_set.host);
    parts CONSTANT text[] := regexp_match(btrim(http_limit_set.rate), '^([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*/\s*([smh])$');
    per_second double precision;
    stored moonyard.http_limits;
BEGIN
    IF parts IS NULL THEN
        PERFORM moonyard.refuse(
            'request_invalid', format('`%s` is no rate', left(coalesce(http_limit_set.rate, ''), 40)),
            'A rate looks like 50/s, 30/m or 1000/h.'
        );
    END IF;
    per_second := parts[1]::double precision / CASE parts[2] WHEN 's' THEN 1 WHEN 'm' THEN 60 ELSE 3600 END;
    IF NOT per_second BETWEEN 1.0 / 86400 AND 1000000 THEN
        PERFORM moonyard.refuse(
            'request_invalid', format('`%s` is out of range', http_limit_set.rate),
            'A rate goes from one request a day (0.042/h) to a million a second.'
        );
    END IF;
    IF NOT coalesce(http_limit_set.burst, 1) BETWEEN 1 AND 1000000 THEN
        PERFORM moonyard.refuse(
            'request_invalid', format('a burst is 1 to 1,000,000 requests, not %s', http_limit_set.burst)
        );
    END IF;
    IF (SELECT count(*) FROM moonyard.http_limits AS known WHERE known.host <> clean) >= 1000 THEN
        PERFORM moonyard.refuse(
            'request_invalid', 'there are 1,000 limits, and no more are taken: each runner hears of all of them',
            'A pattern such as *.example.org stands for many hosts.'
        );
    END IF;
    INSERT INTO moonyard.http_limits AS known (host, rate, interval_seconds, burst, set_by)
    VALUES (
        clean, parts[1] || '/' || parts[2], least(1 / per_second, 86400),
        coalesce(http_limit_set.burst, greatest(1, round(per_second)::integer)), http_limit_set.actor
    )
    ON CONFLICT (host) DO UPDATE SET
        rate = excluded.rate, interval_seconds = excluded.interval_seconds, burst = excluded.burst,
        -- What was promised at the old rate is not waited for at the new one.
        next_at = least(known.next_at, now()),
        set_by = excluded.set_by, set_at = now()
    RETURNING * INTO stored;
    PERFORM moonyard.note(
        http_limit_set.actor, 'set http limit', 'host ' || clean,
        jsonb_build_object('rate', stored.rate, 'burst', stored.burst)
    );
    RETURN stored;
END $$;
COMMENT ON FUNCTION moonyard.http_limit_set IS 'Sets how often all runners together may ask a host, or all hosts of a pattern together.';

CREATE FUNCTION moonyard.http_limit_remove(host text, actor text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    clean CONSTANT text := moonyard.http_limit_host(http_limit_remove.host);
BEGIN
    DELETE FROM moonyard.http_limits AS known WHERE known.host = clean;
    IF NOT FOUND THEN
        PERFORM moonyard.refuse(
            'http_limit_unknown', format('there is no limit for `%s`', clean),
            'inspect.http_limits and `moonyard http-limit list` show which there are.'
        );
    END IF;
    PERFORM moonyard.note(actor, 'remove http limit', 'host ' || clean);
    RETURN clean;
END $$;
COMMENT ON FUNCTION moonyard.http_limit_remove IS 'Removes a limit: runners ask that host as often as their own settings let them.';

CREATE FUNCTION control.set_http_limit(host text, rate text, burst integer DEFAULT NULL) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%s: %s, %s at once', made.host, made.rate, made.burst)
    FROM moonyard.http_limit_set(host, rate, burst, session_user) AS made;
$$;
COMMENT ON FUNCTION control.set_http_limit IS
    'Limits how often all runners together ask a host by http: SELECT control.set_http_limit(''*.example.org'', ''50/s'', burst => 20);';

CREATE FUNCTION control.remove_http_limit(host text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT moonyard.http_limit_remove(host, session_user);
$$;
COMMENT ON FUNCTION control.remove_http_limit IS 'Removes such a limit: SELECT control.remove_http_limit(''*.example.org'');';

CREATE VIEW inspect.http_limits AS
SELECT
    inspect.shortened(known.host, 40) AS host,
    known.rate,
    known.burst,
    known.permits,
    inspect.duration(now() - known.asked_at) AS asked_ago,
    inspect.duration(greatest(
        known.next_at - make_interval(secs => (known.burst - 1) * known.interval_seconds) - now(), interval '0'
    )) AS next_in,
    inspect.shortened(known.set_by, 24) AS set_by,
    known.set_at::timestamptz(0) AS set
FROM moonyard.http_limits AS known
ORDER BY known.host;
COMMENT ON VIEW inspect.http_limits IS 'How often all runners together may ask hosts by http; permits: handed out so far; next_in: how long a runner that asks now waits.';

REVOKE EXECUTE ON FUNCTION control.set_http_limit, control.remove_http_limit FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON inspect.http_limits TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT SELECT ON inspect.http_limits TO moonyard_operator;
        GRANT EXECUTE ON FUNCTION control.set_http_limit, control.remove_http_limit TO moonyard_operator;
    END IF;
END $$;

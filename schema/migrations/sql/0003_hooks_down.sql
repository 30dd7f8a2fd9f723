DROP VIEW inspect.hook_deliveries, inspect.hooks;
COMMENT ON COLUMN moonyard.jobs.trigger IS 'What made it: {"kind": "submit" | "schedule" | "psql", "by": a token''s, schedule''s or user''s name}.';
DROP TABLE moonyard.hook_deliveries, moonyard.hook_secrets, moonyard.hooks;

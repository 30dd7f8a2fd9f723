DROP FUNCTION control.approve, control.refuse;
DROP VIEW inspect.approvals, inspect.protections;
DROP FUNCTION moonyard.approval_answer, moonyard.stage_approvals, moonyard.job_people, moonyard.who;
DROP INDEX moonyard.audit_of_job_people;
ALTER TABLE moonyard.schedules DROP COLUMN created_by;
DROP TABLE moonyard.approval_answers, moonyard.approvals, moonyard.protections;

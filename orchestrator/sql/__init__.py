"""All statements of the orchestrator, a module for each part that uses them, each with its reasons.

States stand in them as literals: a parameter would hide the predicates of partial indexes from the planner. The time is
always the database's.
"""

"""``job`` and ``env``: what the job is, and what it was given."""

from __future__ import annotations

from typing import Any, Final

from runner.modules.job import OutputArguments
from runner.reference import lua_types, pipeline
from runner.reference.description import Given, Module, function
from runner.reference.lua_types import Either

_OUTPUT: Final = lua_types.table(OutputArguments, "moonyard.job")


def _words(name: str) -> str:
    field = _OUTPUT.field(name)
    assert field is not None, "the call takes it"
    return field.words


JOB: Final = Module(
    name="job",
    words="""The job that the script runs for: the table that scripts are called with, also as a global. Its fields are
    those of a [job](#job-table).""",
    kind=pipeline.JOB,
    functions=(
        function(
            "job.output",
            "Tells a result of the stage, for the stages after it and for whoever looks at the job.",
            parameters=(Given("name", str, _words("name")), Given("value", Any, _words("value"))),
            errors=("output_refused",),
            example="""
job.output("version", "1.4.2")
assert(job.outputs.version == "1.4.2")
log.info(job.id, job.attempt, job.inputs.ref)
""",
        ),
    ),
)

ENV: Final = Module(
    name="env",
    words="The variables that the pipeline was given. The runner's own are in no job's reach.",
    functions=(
        function(
            "env.get",
            "Gives a variable's value.",
            parameters=(
                Given("name", str, "of the variable"),
                Given("default", Any, "what is given where there is none", required=False),
            ),
            gives=Either((lua_types.STRING, lua_types.NIL)),
            gives_words="its value, the default, or nil",
            example="""
log.info(env.get("MODE", "release"))
""",
        ),
        function(
            "env.require",
            "Gives a variable's value, and raises where there is none.",
            parameters=(Given("name", str, "of the variable"),),
            gives=str,
            errors=("variable_unknown",),
            example="""
local ok, problem = pcall(env.require, "NOT_GIVEN")
assert(not ok and problem.code == "variable_unknown")
""",
        ),
        function(
            "env.all",
            "Gives all variables.",
            gives=dict[str, str],
            gives_words="a table with their values by name",
            example="""
for name, value in pairs(env.all()) do
  log.debug(name, value)
end
""",
        ),
    ),
)

"""``parallel``, ``retry`` and ``sleep``, which are no modules but functions that stand alone."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from runner.modules.arguments import Duration
from runner.reference.description import Given, Module, function
from runner.reference.lua_types import ANY, Callback, ListOf
from schema.definition import Backoff


class RetryArguments(msgspec.Struct, frozen=True, kw_only=True):
    """As ``sandbox/lua/flow.lua`` checks them."""

    fn: Any
    """What is tried; it is called with the number of the try, from 1."""
    times: int = 2
    """How often it is tried again, 0 to 100."""
    delay: Duration | None = None
    """How long to wait before; by default not at all."""
    backoff: Backoff = "constant"
    """Whether each delay is twice the one before, up to an hour."""
    on: str | list[str] | None = None
    """The codes of errors after which it is tried again; by default all."""


class ParallelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """As ``sandbox/lua/flow.lua`` checks them."""

    limit: int | None = None
    """How many run at once; by default all."""


MODULE: Final = Module(
    name="flow",
    words="Functions that stand alone, and steer what a script does when.",
    is_global=True,
    functions=(
        function(
            "parallel",
            """Runs functions at the same time, and gives what each gave, in their order. Where one raises, the others
            are ended, and it raises that.""",
            parameters=(
                Given("functions", ListOf(Callback(gives=ANY)), "up to 256 functions"),
                Given("options", ParallelOptions, "how many at once", required=False),
            ),
            gives=Any,
            gives_words="the first value of each",
            example="""
local first, second = parallel({
  function() return "one" end,
  function() time.sleep("10ms") return "two" end,
}, { limit = 2 })
assert(first == "one" and second == "two")
""",
        ),
        function(
            "retry",
            "Calls a function again when it raises.",
            arguments=RetryArguments,
            gives=Any,
            gives_words="what the function gave",
            example="""
local tries = retry({ times = 3, delay = "10ms", backoff = "exponential", fn = function(try)
  assert(try == 2, "not yet")
  return try
end })
assert(tries == 2)
""",
        ),
        function(
            "sleep",
            "Waits without holding up anything else; the same as `time.sleep`.",
            parameters=(Given("duration", Duration, "how long; 0 is accepted"),),
            example="""
sleep("10ms")
""",
        ),
    ),
)

"""``secret``."""

from __future__ import annotations

from typing import Final

from runner.reference.description import Given, Module, function
from runner.reference.lua_types import SECRET

MODULE: Final = Module(
    name="secret",
    words="""Values that a script hands on without seeing them, where the pipeline was [granted](secrets.md) them. A
    secret is shown as `***`, `..` makes another of it, and it is taken where an argument's type says so. `:reveal()`
    gives its value, where that is allowed, and the log says that it did.""",
    functions=(
        function(
            "secret.get",
            "Gives a secret that the pipeline was granted.",
            parameters=(Given("name", str, "of the secret"),),
            gives=SECRET,
            errors=("secret_not_granted", "secret_not_confirmed"),
            example="""
local ok, problem = pcall(secret.get, "NOT_GRANTED")
assert(not ok and problem.code == "secret_not_granted")
""",
        ),
    ),
)

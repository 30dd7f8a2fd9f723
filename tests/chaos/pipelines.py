"""The pipelines that are run: what they say and keep is known beforehand, line by line."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

Kind = Literal["lua", "command", "sleep", "artifact", "limited", "curious"]
KINDS: tuple[Kind, ...] = ("lua", "command", "sleep", "artifact", "limited", "curious")
WEIGHTS = (9, 4, 3, 3, 2, 2)
LIMIT = 2
"""How many jobs of the limited pipeline may be under way at once."""
FOUND = "found"
"""A curious job's word for what is not its own."""

INPUTS = 'inputs = { key = { type = "string" }, count = { type = "integer" } }'
ENVIRONMENT = "env = { KEY = job.inputs.key, COUNT = tostring(job.inputs.count), ATTEMPT = tostring(job.attempt) }"
SOURCES: dict[Kind, str] = {
    "lua": f"""
return {{ name = "lua", {INPUTS}, stages = {{ {{ name = "s", script = function(job)
  for i = 1, job.inputs.count do
    log.info(job.inputs.key .. " lua " .. i)
    if i % 50 == 0 then time.sleep(0.2) end
  end
end }} }} }}
""",
    # Its steps sleep: in all for longer than the killer's pauses.
    "sleep": f"""
return {{ name = "sleep", {INPUTS}, stages = {{ {{ name = "s", script = function(job)
  log.info(job.inputs.key .. " begins")
  process.run({{ command = "sh", {ENVIRONMENT}, args = {{ "-c",
    'for i in $(seq 1 "$COUNT"); do echo "$KEY step $i"; sleep 0.1; done' }} }})
  log.info(job.inputs.key .. " ends")
end }} }} }}
""",
    # As another user, which is for the engine's own exec to do: that does not outlive the engine.
    "command": f"""
return {{ name = "command", {INPUTS}, stages = {{
  {{ name = "first", script = function(job) log.info(job.inputs.key .. " first") end }},
  {{ name = "second", script = function(job)
    process.run({{ command = "sh", user = job.inputs.count % 2 == 0 and "0" or nil, {ENVIRONMENT}, args = {{ "-c",
      'for i in $(seq 1 "$COUNT"); do echo "$KEY line $i"; done' }} }})
    log.info(job.inputs.key .. " second")
  end }} }} }}
""",
    # A write that fails fails the command: where the disk is full, no half file is kept.
    "artifact": f"""
return {{ name = "artifact", {INPUTS}, stages = {{ {{ name = "s", script = function(job)
  process.run({{ command = "sh", {ENVIRONMENT}, args = {{ "-c",
    'set -e; for i in $(seq 1 "$COUNT"); do echo "$KEY $ATTEMPT $i"; done > kept.txt' }} }})
  artifact.save({{ path = "kept.txt", name = "kept.txt" }})
  log.info(job.inputs.key .. " kept")
end }} }} }}
""",
    "limited": f"""
return {{ name = "limited", concurrency = {LIMIT}, {INPUTS}, stages = {{ {{ name = "s", script = function(job)
  time.sleep(0.1)
  log.info(job.inputs.key .. " had a slot")
end }} }} }}
""",
    "curious": f"""
return {{ name = "curious", {INPUTS}, stages = {{ {{ name = "s", script = function(job)
  for name, value in pairs({{ io = io, debug = debug, package = package, execute = os.execute, getenv = os.getenv }}) do
    log.info(job.inputs.key .. " {FOUND} " .. name)
  end
  process.run({{ command = "sh", {ENVIRONMENT}, args = {{ "-c", [[
    for name in $(ls -A .); do echo "$KEY {FOUND} $name in a new workspace"; done
    for path in /run/podman /run/docker.sock /var/run/docker.sock /var/lib/containers /var/lib/moonyard; do
      if test -e "$path"; then echo "$KEY {FOUND} $path"; fi
    done
    for name in $(env | sed -n 's/=.*//p' | grep -i -e token -e database -e secret -e preload); do
      echo "$KEY {FOUND} the variable $name"
    done
    for process in /proc/[0-9]*; do
      if grep -q -e cli.main -e postgres -e haproxy "$process/cmdline" 2> /dev/null; then
        test "$process" = "/proc/$$" || echo "$KEY {FOUND} $process"
      fi
    done
    echo "$KEY" > "$KEY"
    echo "$KEY looked around"
  ]] }} }})
end }} }} }}
""",
}
COUNTS: dict[Kind, tuple[int, int]] = {
    "lua": (1, 400),
    "command": (1, 200),
    "sleep": (5, 60),
    "artifact": (1, 2000),
    "limited": (1, 1),
    "curious": (1, 1),
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A job to submit, and what has to come of it."""

    key: str
    kind: Kind
    count: int
    cancelled: bool = False
    """Somebody cancels it, sooner or later."""

    @property
    def inputs(self) -> dict[str, str | int | float | bool]:
        return {"key": self.key, "count": self.count}

    def texts(self) -> list[str]:
        """Give the lines that the job logs, in order."""
        numbers = range(1, self.count + 1)
        match self.kind:
            case "lua":
                return [f"{self.key} lua {number}" for number in numbers]
            case "sleep":
                steps = [f"{self.key} step {number}" for number in numbers]
                return [f"{self.key} begins", *steps, f"{self.key} ends"]
            case "command":
                lines = [f"{self.key} line {number}" for number in numbers]
                return [f"{self.key} first", *lines, f"{self.key} second"]
            case "artifact":
                return [f"{self.key} kept"]
            case "limited":
                return [f"{self.key} had a slot"]
            case "curious":
                return [f"{self.key} looked around"]

    def artifacts(self, attempt: int) -> dict[str, str]:
        """Give the SHA-256 of each artifact that the job keeps, where this attempt is the one that kept it."""
        if self.kind != "artifact":
            return {}
        content = "".join(f"{self.key} {attempt} {number}\n" for number in range(1, self.count + 1))
        return {"kept.txt": hashlib.sha256(content.encode()).hexdigest()}

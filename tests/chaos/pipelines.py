"""The pipelines that are run: what they say and keep is known beforehand, line by line."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

Kind = Literal["lua", "command", "sleep", "artifact"]
KINDS: tuple[Kind, ...] = ("lua", "command", "sleep", "artifact")
WEIGHTS = (10, 4, 3, 3)

INPUTS = '{ key = { type = "string" }, count = { type = "integer" } }'
SOURCES: dict[Kind, str] = {
    "lua": f"""
return {{ name = "lua", inputs = {INPUTS}, stages = {{ {{ name = "s", script = function(job)
  for i = 1, job.inputs.count do
    log.info(job.inputs.key .. " lua " .. i)
    if i % 50 == 0 then time.sleep(0.2) end
  end
end }} }} }}
""",
    # Its steps sleep: in all for longer than the killer's pauses.
    "sleep": f"""
return {{ name = "sleep", inputs = {INPUTS}, stages = {{ {{ name = "s", script = function(job)
  log.info(job.inputs.key .. " begins")
  process.run({{ command = "sh", env = {{ KEY = job.inputs.key, COUNT = tostring(job.inputs.count) }}, args = {{ "-c",
    'for i in $(seq 1 "$COUNT"); do echo "$KEY step $i"; sleep 0.1; done' }} }})
  log.info(job.inputs.key .. " ends")
end }} }} }}
""",
    "command": f"""
return {{ name = "command", inputs = {INPUTS}, stages = {{
  {{ name = "first", script = function(job) log.info(job.inputs.key .. " first") end }},
  {{ name = "second", script = function(job)
    process.run({{ command = "sh", env = {{ KEY = job.inputs.key, COUNT = tostring(job.inputs.count) }}, args = {{ "-c",
      'for i in $(seq 1 "$COUNT"); do echo "$KEY line $i"; done' }} }})
    log.info(job.inputs.key .. " second")
  end }} }} }}
""",
    "artifact": f"""
return {{ name = "artifact", inputs = {INPUTS}, stages = {{ {{ name = "s", script = function(job)
  process.run({{ command = "sh", env = {{ KEY = job.inputs.key, COUNT = tostring(job.inputs.count) }}, args = {{ "-c",
    'for i in $(seq 1 "$COUNT"); do echo "$KEY $i"; done > kept.txt' }} }})
  artifact.save({{ path = "kept.txt", name = "kept.txt" }})
  log.info(job.inputs.key .. " kept")
end }} }} }}
""",
}
COUNTS: dict[Kind, tuple[int, int]] = {
    "lua": (1, 400),
    "command": (1, 200),
    "sleep": (5, 60),
    "artifact": (1, 2000),
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

    def artifacts(self) -> dict[str, str]:
        """Give the SHA-256 of each artifact that the job keeps."""
        if self.kind != "artifact":
            return {}
        content = "".join(f"{self.key} {number}\n" for number in range(1, self.count + 1))
        return {"kept.txt": hashlib.sha256(content.encode()).hexdigest()}

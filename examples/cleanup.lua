-- Cleans up after itself, whatever happens: press Ctrl-C while it counts, once or twice.
-- Run it: moonyard run examples/cleanup.lua
local started = false

local COUNT = [[
trap 'echo "asked to end at $n: a moment, please"; sleep 1; exit 0' TERM
while [ "$n" -gt 0 ]; do echo "$n"; n=$((n - 1)); sleep 1; done
]]

return {
  name = "cleanup",
  cancel_grace = "5s",
  inputs = { seconds = { type = "integer", default = 10, description = "how long it counts" } },
  stages = {
    {
      name = "count",
      script = function(job)
        started = true
        process.run({ command = "sh", args = { "-c", COUNT }, env = { n = job.inputs.seconds } })
      end,
    },
  },
  on_cancel = {
    { name = "rollback", script = function() log.warn("somebody changed their mind") end },
  },
  finally = {
    {
      name = "clean",
      script = function(job)
        if started then
          log.info("the stages " .. job.state .. ", and this runs all the same")
        end
      end,
    },
  },
}

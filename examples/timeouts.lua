-- Limits of time: of a command, which a script may catch; of a stage and of the job, which nothing catches.
--   moonyard run examples/timeouts.lua

local SLOW = [[
trap 'echo "asked to end, and cleaning up"; exit 0' TERM
echo "this takes a while"
while :; do sleep 0.1; done
]]

return {
  name = "timeouts",
  timeout = "5m", -- all stages of the job together
  stages = {
    {
      name = "impatient",
      timeout = "1m", -- one try of this stage
      script = function()
        local ok, problem = pcall(process.run, { command = "sh", args = { "-c", SLOW }, timeout = "500ms" })
        assert(not ok and problem.code == "command_timeout", problem)
        log.warn("that took too long: going on without it")
      end,
    },
  },
}

-- What fails now and then is tried again: a whole stage, or a few lines, and only for the errors that may pass.
--   moonyard run examples/retries.lua

local tries = 0

return {
  name = "retries",
  -- The job too could have `retries`: then another runner may get it, with an empty workspace.
  stages = {
    {
      name = "flaky",
      retries = { times = 3, delay = "100ms", backoff = "exponential" },
      script = function()
        tries = tries + 1 -- Lua's variables live on from try to try, as do the workspace's files
        log.info("try " .. tries)
        process.run({ command = "test", args = { tries, "-ge", 3 } })
      end,
    },
    {
      name = "lines",
      script = function()
        local answer = retry({
          times = 5,
          delay = "50ms",
          on = { "command_failed" }, -- a mistake in this file would be another error, and not be tried again
          fn = function(try)
            return process.run({ command = "sh", args = { "-c", "test " .. try .. " -eq 2 && echo there" } }).stdout
          end,
        })
        log.info("the answer is: " .. answer:gsub("%s+$", ""))
      end,
    },
  },
}

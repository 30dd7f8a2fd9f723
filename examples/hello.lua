-- The smallest useful pipeline: one stage, one command, and a word from Lua itself.
--   moonyard run examples/hello.lua --input name=you

return {
  name = "hello",
  inputs = { name = { type = "string", default = "world", description = "whom to greet" } },
  stages = {
    {
      name = "greet",
      script = function(job)
        log.info("This line comes from Lua, on the runner.")
        local r = process.run({ command = "echo", args = { "Hello, " .. job.inputs.name .. ", from a container!" } })
        log.info("the command took " .. string.format("%.3f", r.duration) .. " s")
      end,
    },
  },
}

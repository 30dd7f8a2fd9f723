-- Stages that run only sometimes: by an input, by what a stage before found, after a failure, or in any case.
--   moonyard run examples/conditions.lua --input ref=release/2.0

return {
  name = "conditions",
  inputs = { ref = { default = "main" }, broken = { type = "boolean", default = false } },
  stages = {
    {
      name = "test",
      script = function(job)
        process.run({ command = "test", args = { tostring(job.inputs.broken), "=", "false" } })
        job.output("coverage", 83)
      end,
    },
    {
      name = "publish",
      needs = { "test" },
      -- A function decides, and may look at inputs and at what stages told. What is skipped by it is no failure.
      when = function(job)
        return regex.match(job.inputs.ref, [[^release/\d+\.\d+$]]) and job.outputs.coverage >= 80
      end,
      script = function(job)
        log.info("published " .. job.inputs.ref)
      end,
    },
    {
      name = "help",
      when = "on_failure",
      script = function()
        log.warn("the tests failed: look at docs/testing.md")
      end,
    },
    {
      name = "tell",
      when = "always",
      script = function(job)
        log.info("test " .. job.stages.test .. ", publish " .. job.stages.publish)
      end,
    },
  },
}

-- What goes wrong, and what a script does about it: catch it, look at a code, go on in spite of it, or raise its own.
--   moonyard run examples/errors.lua

return {
  name = "errors",
  stages = {
    {
      name = "look",
      script = function()
        -- A command whose exit code is an answer, and no error.
        local found = process.run({ command = "grep", args = { "-q", "moon", "/etc/passwd" }, check = false })
        log.info("grep ended with " .. found.code)

        -- An error is a value with a code (docs/errors.md), a message and a cause.
        local ok, problem = pcall(fs.read, "missing.txt")
        if not ok and problem.code == "path_not_found" then
          log.info("caught: " .. problem.message)
        end
      end,
    },
    {
      name = "lint",
      allow_failure = true, -- the job goes on, and can succeed
      script = function()
        error("three lines are too long", 0)
      end,
    },
    {
      name = "judge",
      script = function(job)
        assert(job.stages.lint == "failed")
        log.warn("the linter found something; nobody has to mend it today")
      end,
    },
  },
}

-- What stands in the log, and at which level: lines with fields, groups, and the output of commands.
--   moonyard run examples/logs.lua -v   (without -v, debug lines are kept and not shown)

return {
  name = "logs",
  stages = {
    {
      name = "speak",
      script = function()
        log.debug("for whoever looks closely")
        log.info("tests are done", { passed = 812, failed = 0, suite = "unit" }) -- a table at the end: fields
        log.warn("two of them were slow")

        log.group("compile", function()
          log.info("for x86_64")
          -- What it writes belongs to the group, stdout at level info and stderr at level warn.
          process.run({ command = "sh", args = { "-c", "echo cc -O2 main.c; echo 'unused variable' >&2" } })
        end)

        -- A tool that reports its progress on stderr; and one whose output is a value, and for nobody to read.
        process.run({ command = "sh", args = { "-c", "echo '50%' >&2" }, stderr = "debug" })
        local version = process.run({ command = "echo", args = { "1.4.2" }, stdout = "off" }).stdout
        log.info("version " .. version:gsub("\n", ""))
      end,
    },
  },
}

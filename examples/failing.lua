-- A pipeline that fails, to see how that is told: the command, its exit code, and the way there through the Lua file.
--   moonyard run examples/failing.lua

local function test_suite(name)
  process.run({ command = "sh", args = { "-c", "echo testing " .. name .. "; echo '1 of 12 failed' >&2; exit 3" } })
end

return {
  name = "failing",
  stages = {
    {
      name = "test",
      script = function()
        test_suite("the parser")
      end,
    },
    {
      name = "deploy",
      needs = { "test" },
      script = function()
        log.info("never reached")
      end,
    },
  },
}

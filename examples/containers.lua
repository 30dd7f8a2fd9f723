-- Variables live across containers: Lua runs on the runner, and only process.run goes into one.
--   moonyard run examples/containers.lua

local seen = {}

local function system()
  local r = process.run({ command = "cat", args = { "/etc/os-release" }, stdout = "off", check = false })
  return r.ok and r.stdout:match('PRETTY_NAME="([^"]*)"') or "something small"
end

return {
  name = "containers",
  stages = {
    {
      name = "default",
      script = function()
        seen["the default container"] = system()
        process.run({ command = "sh", args = { "-c", "echo kept in the workspace > note.txt" } })
      end,
    },
    {
      name = "own",
      container = "docker.io/library/python:3.11",
      needs = { "default" },
      script = function()
        seen["the stage's container"] = system()
        container.run("docker.io/library/debian:bookworm", { network = "none" }, function()
          seen["a block's container"] = system()
          process.run({ command = "cat", args = { "note.txt" } })
        end)
        for where, what in pairs(seen) do
          log.info(where .. " is " .. what)
        end
      end,
    },
  },
}

-- A container for code that nobody trusts: no network, little memory, another user, and an image kept as it is.
--   moonyard run examples/limits.lua

return {
  name = "limits",
  stages = {
    {
      name = "distrust",
      script = function()
        local options = {
          network = "none",
          memory = "128m", -- what goes beyond is killed
          cpus = 0.5,
          user = 1000,
          read_only = true, -- all but /workspace and /tmp
          env = { LANG = "C" },
        }
        container.run("docker.io/library/debian:bookworm", options, function()
          process.run({ command = "sh", args = { "-c", 'echo "user $(id -u), interfaces: $(ls /sys/class/net)"' } })
          local write = process.run({ command = "touch", args = { "/usr/mine" }, check = false, stderr = "debug" })
          log.info("the image can be written to: " .. tostring(write.ok))
          process.run({ command = "sh", args = { "-c", "echo its result > result.txt" } })
        end)
        log.info("what it left: " .. fs.read("result.txt"):gsub("\n", ""))
      end,
    },
  },
}

-- What one run made, the next one finds: a folder of the workspace kept under a key with the hash of a file in it.
--   moonyard run examples/cache.lua   (twice, and then with --input release=13)

return {
  name = "cache",
  inputs = { release = { type = "integer", default = 12, description = "another one is another key" } },
  stages = {
    {
      name = "checkout",
      script = function(job)
        local release = tostring(job.inputs.release)
        process.run({ command = "sh", args = { "-c", 'echo "release $R" > packages.lock' }, env = { R = release } })
      end,
    },
    {
      name = "build",
      cache = { key = "packages", files = { "packages.lock" }, paths = { "packages" } },
      script = function()
        local there = process.run({ command = "test", args = { "-e", "packages/list" }, check = false }).ok
        if there then
          log.info("the packages are here already")
        else
          log.info("fetching packages")
          process.run({ command = "sh", args = { "-c", "mkdir packages && cp packages.lock packages/list" } })
        end
        process.run({ command = "cat", args = { "packages/list" } })
      end,
    },
  },
}

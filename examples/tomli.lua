-- A real project from its repository to a tested, packed and kept artifact.
--   moonyard submit tomli --input url=git://HOST/tomli.git --follow

local git = require("git")

local tested = {}

return {
  name = "tomli",
  description = "Clones the TOML parser tomli, runs its own test suite, and keeps a tarball of it",
  plugins = { "git" },
  inputs = {
    url = { type = "string", description = "the repository to clone" },
    branch = { type = "string", default = "main", description = "branch, tag or commit" },
  },
  timeout = "10m",
  stages = {
    {
      name = "checkout",
      script = function(job)
        local clone = git.clone({ url = job.inputs.url, branch = job.inputs.branch, path = "tomli" })
        tested.commit = clone.commit
      end,
    },
    {
      name = "test",
      container = "docker.io/library/python:3.11",
      needs = { "checkout" },
      timeout = "5m",
      script = function()
        -- unittest reports on stderr; there it is progress, not a warning
        local r = process.run({
          command = "python3",
          args = { "-m", "unittest", "-v" },
          cwd = "tomli",
          env = { PYTHONPATH = "src" },
          stderr = "info",
        })
        tested.count = tonumber(r.stderr:match("Ran (%d+) tests"))
        log.info("tests that passed: " .. tested.count)
      end,
    },
    {
      name = "pack",
      needs = { "test" },
      script = function()
        container.run("docker.io/library/debian:bookworm", { network = "none" }, function()
          process.run({
            command = "tar",
            args = {
              "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--exclude=.git",
              "-czf", "tomli.tar.gz", "tomli",
            },
            env = { GZIP = "-n" },
          })
        end)
        local kept = artifact.save({ path = "tomli.tar.gz" })
        log.info("commit " .. tested.commit:sub(1, 12) .. ": " .. tested.count .. " tests, packed as " .. kept.sha256)
      end,
    },
  },
}

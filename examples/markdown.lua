-- A real project from its repository to a tested, packed and kept artifact; `make demo` serves the repository.
--   moonyard submit markdown --input url=git://HOST/markdown.git --follow

local git = require("git")

-- Set in one stage and read in a later one: Lua's state lives as long as the job, whatever containers come and go.
local tested = { count = 0 }

local SUITES = {
  legacy = { "tests.test_legacy", "tests.test_extensions", "tests.test_meta" },
  blocks = { "discover", "-t", ".", "-s", "tests/test_syntax/blocks" },
  inline = { "discover", "-t", ".", "-s", "tests/test_syntax/inline" },
  extensions = { "discover", "-t", ".", "-s", "tests/test_syntax/extensions" },
}

local function run_suite(name)
  local r = process.run({
    command = "python3",
    args = { "-m", "unittest", table.unpack(SUITES[name]) },
    cwd = "markdown",
    env = { PYTHONDONTWRITEBYTECODE = "1" },
    stderr = "debug", -- unittest reports on stderr: there it is progress, not a warning
  })
  local count = tonumber(r.stderr:match("Ran (%d+) tests?"))
  log.info(string.format("%s: %d tests passed", name, count))
  tested.count = tested.count + count
end

return {
  name = "markdown",
  description = "Clones the Python project Markdown, runs its own test suite, and keeps a tarball of it",
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
        local clone = git.clone({ url = job.inputs.url, branch = job.inputs.branch, path = "markdown" })
        tested.commit = clone.commit
      end,
    },
    {
      name = "test",
      container = "docker.io/library/python:3.11",
      needs = { "checkout" },
      timeout = "5m",
      script = function()
        for _, name in ipairs({ "legacy", "blocks", "inline", "extensions" }) do
          run_suite(name)
        end
      end,
    },
    {
      name = "pack",
      needs = { "test" },
      script = function()
        container.run("docker.io/library/debian:bookworm", { network = "none" }, function()
          -- Sorted, without times and owners: the same commit gives the same bytes.
          process.run({
            command = "tar",
            args = {
              "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--exclude=.git",
              "--use-compress-program=gzip -n", "-cf", "markdown.tar.gz", "markdown",
            },
          })
        end)
        local kept = artifact.save({ path = "markdown.tar.gz" })
        local commit = tested.commit:sub(1, 12)
        log.info(string.format("commit %s: %d tests, packed as %s", commit, tested.count, kept.sha256))
      end,
    },
  },
}

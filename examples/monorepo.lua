-- Many projects in one repository: builds only those whose files have changed since the last release.
--   moonyard run examples/monorepo.lua

local git = require("git")

local MAKE_ORIGIN = [[
git init -q -b main /workspace/origin && cd /workspace/origin
git config user.name origin && git config user.email origin@example.org
mkdir -p services/api services/web libraries/shared
for part in services/api services/web libraries/shared; do echo 1 > $part/code.txt; done
git add . && git commit -qm "all of it" && git tag v1.0.0
echo 2 > services/web/code.txt && git commit -qam "web: a new colour"
]]

-- What a project is made of: files of others count as its own.
local PROJECTS = {
  api = { "services/api/", "libraries/shared/" },
  web = { "services/web/", "libraries/shared/" },
}

local changed = {}

local function is_changed(project)
  for _, path in ipairs(changed) do
    for _, folder in ipairs(PROJECTS[project]) do
      if path:sub(1, #folder) == folder then
        return true
      end
    end
  end
  return false
end

return {
  name = "monorepo",
  plugins = { "git@1" },
  inputs = { url = { default = "/workspace/origin" }, since = { default = "v1.0.0", description = "a tag or commit" } },
  stages = {
    {
      name = "origin",
      when = function(job) return job.inputs.url == "/workspace/origin" end,
      script = function()
        container.run("docker.io/alpine/git:latest", function()
          process.run({ command = "sh", args = { "-euc", MAKE_ORIGIN } })
        end)
      end,
    },
    {
      name = "compare",
      script = function(job)
        git.clone(job.inputs.url, { path = "repo", depth = 0 })
        for _, file in ipairs(git.diff({ from = job.inputs.since, to = "HEAD", path = "repo" }).files) do
          log.info("changed: " .. file.path)
          table.insert(changed, file.path)
        end
      end,
    },
    {
      name = "build",
      needs = { "compare" },
      matrix = { project = { "api", "web" } },
      when = function(job) return is_changed(job.matrix.project) end,
      script = function(job)
        log.info("building " .. job.matrix.project)
      end,
    },
  },
}

-- Works with a git repository: clones it, looks at its history, commits and tags.
--   moonyard run examples/git.lua   (it makes itself a repository to clone; --input url=https://... takes another)

local git = require("git")

-- Stands in for a forge.
local MAKE_ORIGIN = [[
git init -q -b main /workspace/origin && cd /workspace/origin
git config user.name origin && git config user.email origin@example.org
echo one > readme.txt && git add . && git commit -qm "first" && git tag v1.0.0
echo two >> readme.txt && git commit -qam "second"
]]

return {
  name = "git",
  plugins = { "git@1" },
  inputs = { url = { default = "/workspace/origin", description = "the repository" } },
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
      name = "work",
      script = function(job)
        -- One commit is the default; 0 brings all of them and the tags, which `describe` needs.
        -- For a private one: token = secret.get("GIT_TOKEN"), which is then in no argument, file or log.
        local clone = git.clone(job.inputs.url, { branch = "main", path = "app", depth = 0 })
        log.info("commit " .. clone.commit:sub(1, 8))

        local described = git.describe({ path = "app" })
        log.info("since " .. (described.tag or "the first commit") .. ", commits: " .. (described.distance or 0))

        fs.write("app/version.txt", "1.0.1\n")
        assert(not git.status({ path = "app" }).clean)
        git.commit("Version 1.0.1", { path = "app", author = { name = "Release", email = "release@example.org" } })
        git.tag("v1.0.1", { path = "app" })
        log.info("now at " .. git.describe({ path = "app" }).text)
        -- git.push({ branch = "main", tags = true, path = "app", token = secret.get("GIT_TOKEN") })
      end,
    },
  },
}

-- push: git.push. The token must not meet what a job's commands may have written into the repository: its configuration
-- can name programs to run, proxies, and other places in the place of remotes. So the push is made from a fresh
-- repository that only borrows the objects of the one in the workspace.

local commands = require("./commands")
local git, read = commands.git, commands.read

local CLEAN = "/tmp/push.git"

local function resolve(path, ref)
  local found = git({ "-C", path, "rev-parse", "--verify", "--quiet", ref }, { check = false, quiet = true })
  local sha = found.stdout:match("^(%x+)\n$")
  if not sha then
    plugin.fail("ref_unknown", "git.push: the repository has no branch, tag or commit `" .. ref .. "`")
  end
  return sha
end

return function(arguments)
  local path = commands.path("git.push", arguments.path)
  local url = arguments.url or plugin.state[path]
  if not url then
    plugin.fail(
      "url_unknown", "git.push: where to is not known, for this job did not clone the repository in `" .. path .. "`",
      "Give `url`."
    )
  end
  local access = commands.access("git.push", url, arguments.token, arguments.user)
  return commands.inside(function()
    local commit = resolve(path, arguments.ref .. "^{commit}")
    local specs = {}
    local branch = arguments.branch or not arguments.tags and read({ "-C", path, "branch", "--show-current" })
    if branch == "" then
      plugin.fail("argument_invalid", "git.push: no branch is checked out; name one in `branch`")
    elseif branch then
      specs[#specs + 1] = commit .. ":refs/heads/" .. branch
    end
    for _, tag in ipairs(arguments.tags or {}) do
      specs[#specs + 1] = resolve(path, "refs/tags/" .. tag) .. ":refs/tags/" .. tag
    end
    local objects = read({ "-C", path, "rev-parse", "--path-format=absolute", "--git-path", "objects" })
    git({ "init", "--quiet", "--bare", "--", CLEAN })
    local env = { GIT_ALTERNATE_OBJECT_DIRECTORIES = objects }
    -- A shallow clone's oldest commits have no parents here.
    local shallow = read({ "-C", path, "rev-parse", "--path-format=absolute", "--git-path", "shallow" })
    if commands.program("test", { "-f", shallow }).ok then
      commands.program("cp", { "--", shallow, CLEAN .. "/shallow" })
    end
    local words = { "--git-dir=" .. CLEAN, "push", "--porcelain", "--no-progress" }
    if arguments.force then
      words[#words + 1] = "--force"
    end
    words[#words + 1] = "--"
    words[#words + 1] = url
    local pushed = git(table.move(specs, 1, #specs, #words + 1, words), { access = access, env = env, check = false })
    if not pushed.ok then
      local reason = pushed.stdout:match("!\t[^\t]*\t([^\n]*)") or pushed.stderr:match("fatal: [^\n]*") or
        pushed.stderr:match("[^\n]+") or "git said nothing"
      plugin.fail("push_rejected", "git.push: " .. url .. " did not take it: " .. reason,
        "Its own words stand in the log at level debug.")
    end
    log.info("pushed " .. table.concat(specs, " ") .. " to " .. url)
    return { commit = commit }
  end)
end

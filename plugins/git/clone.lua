-- clone: git.clone. What is in the workspace already is not touched: a path that is not empty is refused, and where
-- something fails, nothing is left of it.

local commands = require("./commands")
local git, read = commands.git, commands.read

local function with_depth(arguments, depth)
  if depth > 0 then
    arguments[#arguments + 1] = "--depth=" .. depth
  end
  return arguments
end

local function append(arguments, ...)
  return table.move({ ... }, 1, select("#", ...), #arguments + 1, arguments)
end

local function is_commit(text)
  return text ~= nil and text:match("^%x+$") ~= nil and (#text == 40 or #text == 64)
end

local function refuse_what_is_there(path)
  if commands.program("ls", { "-A", "--", path }).stdout ~= "" then
    plugin.fail(
      "path_not_empty", ("git.clone: path `%s` already exists and is not an empty folder"):format(path),
      "Clone into another `path`, or remove what is there with fs.remove."
    )
  end
end

-- `git clone --branch` takes no commit, and of a tag and a branch with the same name the branch.
local function clone_exactly(arguments, wanted, access)
  local path = arguments.path
  git({ "init", "--quiet", "--", path })
  git({ "-C", path, "remote", "add", "--", "origin", arguments.url })
  git(append(with_depth({ "-C", path, "fetch", "--no-tags" }, arguments.depth), "--", "origin", wanted), {
    access = access,
  })
end

local function clone_branch(arguments, access)
  local words = with_depth({ "clone", "--no-progress", "--no-checkout" }, arguments.depth)
  if arguments.branch then
    words[#words + 1] = "--branch=" .. arguments.branch
  end
  git(append(words, "--", arguments.url, arguments.path), { access = access })
end

local function head_of(arguments)
  local head = git({ "-C", arguments.path, "rev-parse", "--verify", "--quiet", "HEAD" }, { check = false })
  local commit = head.stdout:match("^%x+")
  if not commit then
    plugin.fail("repository_empty", ("git.clone: repository %s has no commit to check out"):format(arguments.url))
  end
  return commit
end

-- In each submodule, for git calls a shell there; nothing of an operation's arguments is in its words.
local PULL_IN_SUBMODULE = "git lfs install --local --skip-repo && git lfs pull"

local function pull_large_files(path, submodules, access)
  if not git({ "lfs", "version" }, { check = false, quiet = true }).ok then
    plugin.fail(
      "lfs_missing", "git.clone: the image that git runs in has no git-lfs",
      "An image map of the runner can name one that has it in the place of docker.io/alpine/git."
    )
  end
  git({ "-C", path, "lfs", "install", "--local", "--skip-repo" })
  git({ "-C", path, "lfs", "pull" }, { access = access })
  if submodules ~= "none" then
    local words = { "-C", path, "submodule", "foreach", "--quiet" }
    words[#words + 1] = submodules == "recursive" and "--recursive" or nil
    git(append(words, PULL_IN_SUBMODULE), { access = access })
  end
end

local function fill(arguments, access)
  local path, exact = arguments.path, arguments.commit
  if arguments.tag then
    clone_exactly(arguments, "+refs/tags/" .. arguments.tag .. ":refs/tags/" .. arguments.tag, access)
    exact = "refs/tags/" .. arguments.tag
  elseif exact or is_commit(arguments.branch) then
    exact = exact or arguments.branch
    clone_exactly(arguments, exact, access)
  else
    clone_branch(arguments, access)
    head_of(arguments)
  end
  if arguments.sparse then
    git(append({ "-C", path, "sparse-checkout", "set", "--" }, table.unpack(arguments.sparse)))
  end
  git(exact and { "-C", path, "checkout", "--quiet", "--detach", exact } or { "-C", path, "checkout", "--quiet" })
  if arguments.submodules ~= "none" then
    local words = with_depth({ "-C", path, "submodule", "update", "--init" }, arguments.depth)
    if arguments.submodules == "recursive" then
      words[#words + 1] = "--recursive"
    end
    git(words, { access = access })
  end
  if arguments.lfs then
    pull_large_files(path, arguments.submodules, access)
  end
  return head_of(arguments)
end

return function(arguments)
  commands.path("git.clone", arguments.path)
  local named = 0
  for _, name in ipairs({ "branch", "tag", "commit" }) do
    named = named + (arguments[name] and 1 or 0)
  end
  if named > 1 then
    plugin.fail("argument_invalid", "git.clone: of `branch`, `tag` and `commit`, one says what to check out")
  end
  local access = commands.access("git.clone", arguments.url, arguments.token, arguments.user)
  local path = arguments.path
  return commands.inside(function()
    local there = commands.program("test", { "-d", path }).ok
    refuse_what_is_there(path)
    local ok, result = pcall(fill, arguments, access)
    if not ok then
      if path == "." or there then
        process.run({
          command = "find", args = { path, "-mindepth", "1", "-maxdepth", "1", "-exec", "rm", "-rf", "--", "{}", "+" },
          check = false, stdout = "off", stderr = "off",
        })
      else
        commands.program("rm", { "-rf", "--", path })
      end
      error(result, 0)
    end
    plugin.state[path] = arguments.url
    local at = arguments.branch or arguments.tag or arguments.commit
    log.info("cloned " .. arguments.url .. (at and (" at " .. at) or "") .. ": commit " .. result:sub(1, 12))
    return { path = path, commit = result, branch = read({ "-C", path, "branch", "--show-current" }) }
  end)
end

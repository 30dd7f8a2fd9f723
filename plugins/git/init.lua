-- git: brings a repository into the workspace.
--
-- git.clone{ url, branch, depth, path } clones in a container of its own, from the image below. The pipeline's
-- containers need no git, and never see this one. It guarantees:
--   * nothing of the arguments is taken for an option or a shell's word;
--   * git asks no questions: what needs an answer fails, with git's own words as the reason;
--   * what is in the workspace already is not touched: a path that is not empty is refused by git.
--
-- Inputs: url     where from: https://, ssh://, git://, or a path below /workspace; required
--         branch  a branch, a tag, or a commit's full SHA; by default the repository's own
--         depth   how many commits of history; by default 1; 0 for all
--         path    where to, below the workspace; by default the workspace itself
-- Gives:  { path = ..., commit = "full SHA" }

local git = {}

local IMAGE = "docker.io/alpine/git:latest"
local QUIET = { GIT_TERMINAL_PROMPT = "0", GIT_CONFIG_NOSYSTEM = "1", HOME = "/tmp" }
local ACCEPTED = { url = "string", branch = "string", depth = "number", path = "string" }

local readable = { __tostring = function(err) return err.message end }

local function refuse(format, ...)
  error(setmetatable({ code = "argument_invalid", message = "git.clone: " .. format:format(...) }, readable), 3)
end

local function check(options)
  if type(options) ~= "table" then
    refuse('expected a table of named arguments, got %s; write git.clone({ url = "..." })', type(options))
  end
  for name, value in pairs(options) do
    local wanted = ACCEPTED[name]
    if not wanted then
      refuse("`%s` is not an argument (accepted: url, branch, depth, path)", tostring(name))
    elseif type(value) ~= wanted then
      refuse("`%s` must be a %s, got %s", name, wanted, type(value))
    end
  end
  if not options.url or options.url == "" then
    refuse("`url` is required: where the repository is cloned from")
  end
  if options.branch and (options.branch == "" or options.branch:sub(1, 1) == "-") then
    refuse("`branch` is no name of a branch, tag or commit: %q", options.branch)
  end
  local depth = options.depth or 1
  if math.type(depth) ~= "integer" or depth < 0 then
    refuse("`depth` must be a whole number, 0 for all history, got %s", tostring(depth))
  end
  local path = options.path or "."
  if path == "" or path:sub(1, 1) == "/" or path:sub(1, 1) == "-" or ("/" .. path .. "/"):find("/../", 1, true) then
    refuse("`path` must be a path below the workspace, got %q", path)
  end
  return options.url, options.branch, depth, path
end

local function run(arguments)
  return process.run({ command = "git", args = arguments, env = QUIET, stdout = "debug", stderr = "debug" })
end

local function with_depth(arguments, depth)
  if depth > 0 then
    arguments[#arguments + 1] = "--depth=" .. depth
  end
  return arguments
end

-- `git clone --branch` takes no commit; a fetch of just that commit does the same. What git's own clone sees to, that
-- nothing is touched which is there already, and that nothing is left where it failed, is to be seen to here.
local function clone_commit(url, commit, depth, path)
  local there = process.run({
    command = "ls", args = { "-A", "--", path }, check = false, stdout = "off", stderr = "off",
  })
  if there.stdout ~= "" then
    error(setmetatable({
      code = "path_not_empty",
      message = ("git.clone: path `%s` already exists and is not an empty folder"):format(path),
    }, readable), 0)
  end
  local ok, err = pcall(function()
    run({ "init", "--quiet", "--", path })
    local arguments = with_depth({ "-C", path, "fetch" }, depth)
    table.move({ "--", url, commit }, 1, 3, #arguments + 1, arguments)
    run(arguments)
    run({ "-C", path, "checkout", "--quiet", "--detach", "FETCH_HEAD" })
  end)
  if not ok then
    process.run({ command = "rm", args = { "-rf", "--", path == "." and ".git" or path }, check = false })
    error(err, 0)
  end
end

local function head_of(url, path)
  local head = process.run({
    command = "git", args = { "-C", path, "rev-parse", "--verify", "HEAD" }, env = QUIET,
    check = false, stdout = "debug", stderr = "debug",
  })
  local commit = head.stdout:match("^%x+")
  if not commit then
    error(setmetatable({
      code = "repository_empty",
      message = ("git.clone: repository %s has no commit to check out"):format(url),
    }, readable), 0)
  end
  return commit
end

function git.clone(options)
  local url, branch, depth, path = check(options)
  return container.run(IMAGE, function()
    if branch and branch:match("^%x+$") and #branch == 40 then
      clone_commit(url, branch, depth, path)
    else
      local arguments = with_depth({ "clone", "--no-progress" }, depth)
      if branch then
        arguments[#arguments + 1] = "--branch=" .. branch
      end
      table.move({ "--", url, path }, 1, 3, #arguments + 1, arguments)
      run(arguments)
    end
    local commit = head_of(url, path)
    log.info("cloned " .. url .. (branch and (" at " .. branch) or "") .. ": commit " .. commit:sub(1, 12))
    return { path = path, commit = commit }
  end)
end

return git

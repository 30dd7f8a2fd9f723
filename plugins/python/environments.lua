-- environments: virtual environments in the workspace, and where their commands run: in the caller's container, or in
-- one of the plugin's own with the Python that `version` names. An environment only works where its Python is, so what
-- made one is remembered, and later operations on it run there.

local environments = {}

local IMAGE = "docker.io/library/python:"
local WORKSPACE = "/workspace/"

-- Refuses what is no path below the workspace.
function environments.path(call, name, path)
  if path == "" or path:find("^[/-]") or ("/" .. path .. "/"):find("/../", 1, true) then
    plugin.fail("argument_invalid", ("%s: `%s` must be a path below the workspace, got %q"):format(call, name, path))
  end
  return path == "." and WORKSPACE or WORKSPACE .. path
end

-- The variables that pip needs: all of it below the workspace, and no questions.
local function variables(arguments)
  local env = {
    PIP_CACHE_DIR = WORKSPACE .. arguments.cache, PIP_NO_INPUT = "1", PIP_DISABLE_PIP_VERSION_CHECK = "1",
    PIP_ROOT_USER_ACTION = "ignore", PYTHONUNBUFFERED = "1",
  }
  for name, value in pairs(arguments.env or {}) do
    env[name] = value
  end
  return env
end

local function inside(call, arguments, body)
  local made_by = plugin.state[arguments.venv]
  local version = arguments.version or made_by
  if made_by and version ~= made_by then
    plugin.fail(
      "argument_invalid",
      ("%s: `%s` was made by Python %s, and does not work with %s"):format(call, arguments.venv, made_by, version),
      "Give environments for several versions a `venv` each."
    )
  elseif version then
    return container.run(IMAGE .. version, body)
  end
  return body()
end

-- Makes an environment where there is none, within `environments.use`.
local function make(arguments, python)
  if fs.exists(arguments.venv .. "/pyvenv.cfg") then
    return false
  end
  local words = { "-m", "venv", "--", WORKSPACE .. arguments.venv }
  if arguments.system_packages then
    table.insert(words, 3, "--system-site-packages")
  end
  process.run({ command = python, args = words, stdout = "debug", stderr = "debug" })
  plugin.state[arguments.venv] = arguments.version
  return true
end

-- Calls a body with a function that runs the environment's Python, as process.run does; makes the environment before.
function environments.use(call, arguments, body)
  environments.path(call, "venv", arguments.venv)
  environments.path(call, "cache", arguments.cache or ".")
  return inside(call, arguments, function()
    local is_new = make(arguments, "python3")
    return body(function(words, options)
      options.command, options.args = WORKSPACE .. arguments.venv .. "/bin/python", words
      options.env = variables(arguments)
      return process.run(options)
    end, is_new)
  end)
end

return environments

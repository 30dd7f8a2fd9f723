-- commands: runs git in the plugin's own container. It guarantees:
--   * nothing of an operation's arguments is taken for an option or a shell's word;
--   * git asks no questions: what needs an answer fails, with git's own words as the reason;
--   * no hook and no file watcher of a repository runs: who wrote the workspace may be anybody;
--   * a token is in the environment of the one command that needs it: in no argument, no file, no configuration.

local commands = {}

local IMAGE = "docker.io/alpine/git:latest"

-- Given by the environment, so that they come last: what a repository's own configuration says does not count.
local SETTINGS = {
  { "core.hooksPath", "/dev/null" },
  { "core.fsmonitor", "false" },
  { "safe.directory", "*" },
  { "advice.detachedHead", "false" },
  { "init.defaultBranch", "main" },
  { "gc.auto", "0" },
}

-- Answers git for the one place that the token is for, and for no other that a redirect may lead to.
local HELPER = '!f() { test "$1" = get || return 0; p=; h=; ' ..
  'while IFS="=" read -r k v; do case "$k" in protocol) p="$v";; host) h="$v";; esac; done; ' ..
  'test "$p://$h" = "$MOONYARD_GIT_PLACE" || return 0; ' ..
  'printf "username=%s\\npassword=%s\\n" "$MOONYARD_GIT_USER" "$MOONYARD_GIT_TOKEN"; }; f'

local function environment(access)
  local env = { GIT_TERMINAL_PROMPT = "0", GIT_CONFIG_NOSYSTEM = "1", HOME = "/tmp", LC_ALL = "C.UTF-8" }
  local settings = table.move(SETTINGS, 1, #SETTINGS, 1, {})
  if access then
    -- The empty one forgets all helpers before it.
    settings[#settings + 1] = { "credential.helper", "" }
    settings[#settings + 1] = { "credential.helper", HELPER }
    env.MOONYARD_GIT_PLACE, env.MOONYARD_GIT_USER, env.MOONYARD_GIT_TOKEN = access.place, access.user, access.token
  end
  env.GIT_CONFIG_COUNT = tostring(#settings)
  for index, setting in ipairs(settings) do
    env["GIT_CONFIG_KEY_" .. index - 1] = setting[1]
    env["GIT_CONFIG_VALUE_" .. index - 1] = setting[2]
  end
  return env
end

-- Runs a body in a container of its own, and gives what it gives.
function commands.inside(body)
  return container.run(IMAGE, body)
end

-- Runs git; gives its result. Options: check (as with process.run), access (of `commands.access`), env, quiet.
function commands.git(arguments, options)
  options = options or {}
  local env = environment(options.access)
  for name, value in pairs(options.env or {}) do
    env[name] = value
  end
  local level = options.quiet and "off" or "debug"
  return process.run({
    command = "git", args = arguments, env = env, stdout = level, stderr = level, check = options.check ~= false,
  })
end

-- Gives git's output without the newline at its end.
function commands.read(arguments, options)
  return (commands.git(arguments, options).stdout:gsub("\n$", ""))
end

-- Runs another program of the image, and gives whether it worked.
function commands.program(name, arguments)
  return process.run({ command = name, args = arguments, check = false, stdout = "off", stderr = "off" })
end

-- Whom to be, where: nil without a token.
function commands.access(call, url, token, user)
  local scheme, place = url:match("^(https?)://([^/?#]+)")
  if scheme and place:find("@", 1, true) then
    plugin.fail(
      "argument_invalid", call .. ": `url` has a user or a password in it, which would stand in logs",
      "Write them as `user` and `token`."
    )
  elseif token and not scheme then
    plugin.fail("argument_invalid", call .. ": a `token` is for https:// and http:// URLs, got " .. url)
  end
  return token and { place = scheme .. "://" .. place, user = user, token = token }
end

-- A path below the workspace, or an error.
function commands.path(call, path)
  if path == "" or path:sub(1, 1) == "/" or path:sub(1, 1) == "-" or ("/" .. path .. "/"):find("/../", 1, true) then
    plugin.fail("argument_invalid", ("%s: `path` must be a path below the workspace, got %q"):format(call, path))
  end
  return path
end

return commands

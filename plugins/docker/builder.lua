-- builder: runs buildah in a container of the plugin's. It guarantees:
--   * layers, and the file that logins are kept in, are in that container alone, and gone with it;
--   * a password is on the stdin of `buildah login`, and in no argument and no variable;
--   * what a Containerfile runs has no more rights than any command of the job. It is in another root folder, which is
--     no wall for root: `docker.push` is for builds that the logins are to be kept from.

local builder = {}

local IMAGE = "quay.io/buildah/stable:latest"
local WORKSPACE = "/workspace/"
local ENVIRONMENT = {
  BUILDAH_ISOLATION = "chroot", REGISTRY_AUTH_FILE = "/tmp/registries.json", BUILDAH_FORMAT = "oci",
}

-- Refuses what is no path below the workspace.
function builder.path(call, name, path)
  if path == "" or path:find("^[/-]") or path:find("[:,]") or ("/" .. path .. "/"):find("/../", 1, true) then
    plugin.fail("argument_invalid", ("%s: `%s` must be a path below the workspace, got %q"):format(call, name, path))
  end
  return path == "." and "/workspace" or WORKSPACE .. path
end

-- The registry that an image's name begins with.
function builder.registry(call, name)
  local registry = name:match("^([^/]+)/")
  if not registry or not (registry:find("[.:]") or registry == "localhost") then
    plugin.fail(
      "argument_invalid", ("%s: `%s` does not say which registry"):format(call, name),
      "Write it whole: registry.example.org/team/app:1.4.2, or docker.io/team/app:1.4.2."
    )
  end
  return registry
end

-- Runs buildah; a failure raises `code`, with buildah's own last words.
function builder.run(call, code, words, options)
  options = options or {}
  -- Overlays do not stand on overlays. The image's own settings count where only the environment says so.
  local ran = process.run({
    command = "buildah", args = table.move(words, 1, #words, 2, { "--storage-driver=vfs" }), env = ENVIRONMENT,
    check = false, timeout = options.timeout, stdin = options.stdin,
    stdout = options.stdout or "debug", stderr = options.stderr or "debug",
  })
  if not ran.ok then
    local said = ran.stderr:match("([^\n]+)\n*$") or ran.stdout:match("([^\n]+)\n*$") or "no reason is known"
    plugin.fail(code, call .. ": " .. said:gsub("^Error: ", ""), "All that buildah said is in the log.")
  end
  return ran
end

-- Calls a body in a container, where the logins are done.
function builder.inside(call, arguments, body)
  if not arguments.tls_verify then
    log.warn(call .. ": whoever answers for a registry is trusted (`tls_verify = false`)")
  end
  local verify = "--tls-verify=" .. tostring(arguments.tls_verify)
  return container.run(IMAGE, function()
    for _, login in ipairs(arguments.logins or {}) do
      builder.run(
        call, "login_refused",
        { "login", verify, "--username=" .. login.user, "--password-stdin", "--", login.registry },
        { stdin = login.password, timeout = "1m" }
      )
    end
    return body()
  end)
end

-- Pushes what the container has, under each name; gives the digest.
function builder.push(call, arguments, image, names)
  local digest
  local verify = "--tls-verify=" .. tostring(arguments.tls_verify)
  for _, name in ipairs(names) do
    builder.run(
      call, "push_refused",
      { "push", verify, "--digestfile=/tmp/digest", "--", image, "docker://" .. name },
      { timeout = arguments.timeout }
    )
    digest = process.run({ command = "cat", args = { "/tmp/digest" }, stdout = "off" }).stdout:match("sha256:%x+")
    log.info(("%s: pushed %s (%s)"):format(call, name, digest))
  end
  return digest
end

return builder

-- docker: builds container images and pushes them. What it guarantees is in builder.lua.

local builder = require("./builder")

local NAME = "[%w][%w._:/@-]*"
local LOGINS = {
  type = "list", length_maximum = 20, description = "registries that ask who one is, for base images and pushes",
  items = {
    type = "table",
    fields = {
      registry = {
        type = "string", required = true, pattern = "[%w][%w.:-]*",
        description = "its host, with a port if it has one",
      },
      user = { type = "string", required = true, length_minimum = 1, description = "who it is" },
      password = { type = "secret", required = true, description = "a password or access token" },
    },
  },
}
local TLS_VERIFY = {
  type = "boolean", default = true,
  description = "whether registries have to show a good certificate; `false` takes http, too",
}
local TIMEOUT = {
  type = "string", default = "1h", pattern = "[%d.]+%a+",
  description = "for the build, and for each push",
}

local function names(description, required)
  return {
    type = "list", length_minimum = 1, length_maximum = 20, required = required, description = description,
    items = { type = "string", pattern = NAME, length_maximum = 300 },
  }
end

local ERRORS = {
  build_failed = "the Containerfile could not be built",
  login_refused = "a registry did not take user and password",
  push_refused = "a registry did not take the image",
}

plugin.operation("build", {
  description = "Builds an image as a Containerfile says; pushes it, or writes it into the workspace, or both.",
  arguments = {
    context = { type = "string", default = ".", description = "the folder that it is built from, below the workspace" },
    file = {
      type = "string",
      description = "the Containerfile, below the workspace; by default that of `context`, or its Dockerfile",
    },
    push = names("the names that it is pushed under, whole: `registry.example.org/app:1.4.2`"),
    archive = {
      type = "string",
      description = "where it is written, below the workspace, as an archive of OCI's form",
    },
    args = {
      type = "table", values = { type = { "string", "number" } },
      description = "values of the Containerfile's `ARG`s; they stay in the image's history",
    },
    labels = { type = "table", values = { type = { "string", "number" } }, description = "labels of the image" },
    target = { type = "string", pattern = "[%w][%w._-]*", description = "the Containerfile's stage to end with" },
    platform = {
      type = "string", pattern = "[%w/]+",
      description = "such as `linux/arm64`; what it runs has to work on the runner",
    },
    cache = {
      type = "string", pattern = "[%w][%w._:/-]*", length_maximum = 300,
      description = "a repository of a registry that layers are kept in, whole and without a tag: what was built " ..
        "there from the same is taken from it",
    },
    cache_write = {
      type = "boolean", default = true,
      description = "whether layers that `cache` has not are put there; `false` for builds that others are not to use",
    },
    logins = LOGINS,
    tls_verify = TLS_VERIFY,
    timeout = TIMEOUT,
  },
  gives = {
    id = { type = "string", required = true, description = "the image's id" },
    digest = { type = "string", description = "what registries know it by: `sha256:...`; where it was pushed" },
  },
  errors = ERRORS,
  example = [[
local made = docker.build({
  push = { "registry.example.org/app:1.4.2" },
  logins = { { registry = "registry.example.org", user = "ci", password = secret.get("REGISTRY_PASSWORD") } },
})
job.output("image", "registry.example.org/app@" .. made.digest)]],
}, function(arguments)
  local call = "docker.build"
  if not arguments.push and not arguments.archive then
    plugin.fail("argument_invalid", call .. ": say what becomes of the image: `push`, `archive`, or both")
  end
  local context = builder.path(call, "context", arguments.context)
  local words = {
    "build", "--layers=" .. tostring(arguments.cache ~= nil), "--tls-verify=" .. tostring(arguments.tls_verify),
    "--iidfile=/tmp/image", "--tag=localhost/built",
  }
  if arguments.cache then
    builder.registry(call, arguments.cache)
    if arguments.cache:find(":[^/]*$") then
      plugin.fail(
        "argument_invalid", ("%s: `cache` names a repository, and %q has a tag"):format(call, arguments.cache),
        "Write it without: registry.example.org/team/app-cache. Each layer is a tag in it."
      )
    end
    words[#words + 1] = "--cache-from=" .. arguments.cache
    words[#words + 1] = arguments.cache_write and "--cache-to=" .. arguments.cache or nil
  end
  if arguments.file then
    words[#words + 1] = "--file=" .. builder.path(call, "file", arguments.file)
  end
  for _, option in ipairs({ "target", "platform" }) do
    words[#words + 1] = arguments[option] and "--" .. option .. "=" .. arguments[option] or nil
  end
  for option, values in pairs({ ["--build-arg="] = arguments.args or {}, ["--label="] = arguments.labels or {} }) do
    for name, value in pairs(values) do
      words[#words + 1] = option .. name .. "=" .. value
    end
  end
  words[#words + 1] = "--"
  words[#words + 1] = context
  local archive = arguments.archive and builder.path(call, "archive", arguments.archive)
  for _, name in ipairs(arguments.push or {}) do
    builder.registry(call, name)
  end
  return builder.inside(call, arguments, function()
    builder.run(call, "build_failed", words, { stdout = "info", stderr = "info", timeout = arguments.timeout })
    local id = process.run({ command = "cat", args = { "/tmp/image" }, stdout = "off" }).stdout:gsub("^sha256:", "")
    if archive then
      fs.remove(arguments.archive)
      builder.run(call, "build_failed", { "push", "--", "localhost/built", "oci-archive:" .. archive })
    end
    return { id = id:match("%x+"), digest = builder.push(call, arguments, "localhost/built", arguments.push or {}) }
  end)
end)

plugin.operation("push", {
  description = "Pushes an image that `docker.build` wrote into the workspace.",
  positional = { "archive" },
  arguments = {
    archive = { type = "string", required = true, description = "the archive, below the workspace" },
    push = names("the names that it is pushed under, whole", true),
    logins = LOGINS,
    tls_verify = TLS_VERIFY,
    timeout = TIMEOUT,
  },
  gives = { digest = { type = "string", required = true, description = "what registries know it by: `sha256:...`" } },
  errors = {
    archive_invalid = "the archive is none of an image",
    login_refused = ERRORS.login_refused,
    push_refused = ERRORS.push_refused,
  },
  example = [[
docker.build({ archive = "app.tar" })
docker.push("app.tar", { push = { "registry.example.org/app:1.4.2", "registry.example.org/app:latest" } })]],
}, function(arguments)
  local call = "docker.push"
  local archive = builder.path(call, "archive", arguments.archive)
  for _, name in ipairs(arguments.push) do
    builder.registry(call, name)
  end
  return builder.inside(call, arguments, function()
    local pulled = builder.run(call, "archive_invalid", { "pull", "--quiet", "--", "oci-archive:" .. archive })
    local id = pulled.stdout:match("%x+")
    return { digest = builder.push(call, arguments, id, arguments.push) }
  end)
end)

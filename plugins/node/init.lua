-- node: installs a Node.js project's packages, runs its scripts, and runs node's own tests with a report. Commands run
-- in the caller's container, or in one of the plugin's own with the node that `version` names; `node_modules` is in the
-- workspace, so what one operation installed the next has.

local junit = require("junit")

local IMAGE = "docker.io/library/node:"
local WORKSPACE = "/workspace/"

local COMMON = {
  path = { type = "string", default = ".", description = "the project's folder, below the workspace" },
  cache = {
    type = "string", default = ".cache/npm",
    description = "where npm keeps what it fetched, below the workspace",
  },
  version = {
    type = "string", pattern = "%d+[%w.-]*",
    description = "runs in a container of the plugin's with this node, such as `22`; by default in the caller's",
  },
  env = {
    type = "table", values = { type = { "string", "number", "secret" } },
    description = "variables of the command",
  },
}

local function arguments_with(more)
  for name, spec in pairs(COMMON) do
    more[name] = spec
  end
  return more
end

local function below(call, name, path)
  if path == "" or path:find("^[/-]") or ("/" .. path .. "/"):find("/../", 1, true) then
    plugin.fail("argument_invalid", ("%s: `%s` must be a path below the workspace, got %q"):format(call, name, path))
  end
  return path == "." and "/workspace" or WORKSPACE .. path
end

local function run(call, arguments, command, words, options)
  options = options or {}
  local env = {
    npm_config_cache = below(call, "cache", arguments.cache), npm_config_update_notifier = "false",
    npm_config_fund = "false", npm_config_audit = "false", npm_config_progress = "false", CI = "true",
  }
  for name, value in pairs(arguments.env or {}) do
    env[name] = value
  end
  options.command, options.args, options.env, options.cwd = command, words, env, below(call, "path", arguments.path)
  local function go()
    return process.run(options)
  end
  return arguments.version and container.run(IMAGE .. arguments.version, go) or go()
end

plugin.operation("install", {
  description = "Installs just what the project's lock file names, with `npm ci`.",
  arguments = arguments_with({
    production = { type = "boolean", default = false, description = "leaves out what only development needs" },
    scripts = { type = "boolean", default = true, description = "whether packages may run their install scripts" },
    offline = { type = "boolean", default = false, description = "asks no registry; packages come from `cache` alone" },
    registry = {
      type = "string", pattern = "https?://[^%s]+",
      description = "the registry to ask instead of the usual one",
    },
  }),
  errors = { no_lock = "the project has no lock file, so what to install is not known" },
  example = [[node.install({ version = "22", scripts = false })]],
}, function(arguments)
  local call = "node.install"
  below(call, "path", arguments.path)
  local folder = arguments.path == "." and "" or arguments.path .. "/"
  if not fs.exists(folder .. "package-lock.json") and not fs.exists(folder .. "npm-shrinkwrap.json") then
    plugin.fail(
      "no_lock", call .. ": `" .. arguments.path .. "` has no package-lock.json",
      "`npm install` writes it; it belongs into the repository."
    )
  end
  local words = { "ci" }
  words[#words + 1] = arguments.production and "--omit=dev" or nil
  words[#words + 1] = not arguments.scripts and "--ignore-scripts" or nil
  words[#words + 1] = arguments.offline and "--offline" or nil
  words[#words + 1] = arguments.registry and "--registry=" .. arguments.registry or nil
  run(call, arguments, "npm", words, { stdout = "debug", stderr = "warn" })
end)

plugin.operation("run", {
  description = "Runs a script of the project's `package.json`.",
  positional = { "script" },
  arguments = arguments_with({
    script = { type = "string", required = true, pattern = "[^%-%s][^%s]*", description = "the script's name" },
    args = { type = "list", items = { type = { "string", "number" } }, description = "what it is given behind `--`" },
    check = { type = "boolean", default = true, description = "whether an exit code other than 0 raises" },
  }),
  gives = {
    code = { type = "integer", required = true, description = "the exit code" },
    ok = { type = "boolean", required = true, description = "whether it is 0" },
    stdout = { type = "string", required = true, description = "the output" },
    stderr = { type = "string", required = true, description = "the error output" },
    duration = { type = "number", required = true, description = "seconds" },
  },
  example = [[node.run("build", { version = "22" })]],
}, function(arguments)
  local words = { "run", "--silent", arguments.script, "--" }
  table.move(arguments.args or {}, 1, #(arguments.args or {}), #words + 1, words)
  local ran = run("node.run", arguments, "npm", words, { check = arguments.check })
  return { code = ran.code or -1, ok = ran.ok, stdout = ran.stdout, stderr = ran.stderr, duration = ran.duration }
end)

plugin.operation("test", {
  description = "Runs node's own test runner (node 20 or later), stores each test, and raises with the names of " ..
    "those that failed. A project with another one runs that by node.run, and its report goes to the plugin `junit`.",
  arguments = arguments_with({
    files = {
      type = "list", length_minimum = 1, length_maximum = 500, items = { type = "string", pattern = "[^%-].*" },
      description = "files and folders with tests, below `path`; by default those that node finds",
    },
    report = {
      type = "string", default = "node-test.xml",
      description = "where the report is written, below the workspace",
    },
    fail_on = {
      type = "string", choices = { "failure", "never" }, default = "failure",
      description = "whether it raises when tests failed",
    },
  }),
  gives = {
    tests = { type = "integer", required = true, description = "how many tests there are" },
    passed = { type = "integer", required = true, description = "how many passed" },
    failed = { type = "integer", required = true, description = "how many failed or had an error" },
    skipped = { type = "integer", required = true, description = "how many were skipped" },
    ok = { type = "boolean", required = true, description = "whether none failed" },
  },
  errors = {
    no_tests = "node found no tests",
    tests_not_run = "node did not run the tests, or not to their end",
  },
  example = [[node.test({ version = "22" })]],
}, function(arguments)
  local call = "node.test"
  local words = {
    "--test", "--test-reporter=junit", "--test-reporter-destination=" .. below(call, "report", arguments.report),
    "--test-reporter=spec", "--test-reporter-destination=stdout",
  }
  table.move(arguments.files or {}, 1, #(arguments.files or {}), #words + 1, words)
  -- One of an earlier run would be taken for this one's.
  fs.remove(arguments.report)
  local ran = run(call, arguments, "node", words, { check = false })
  if not fs.exists(arguments.report) or ran.code ~= 0 and ran.code ~= 1 then
    local said = ran.stderr:match("([^\n]+)\n*$") or "its output is in the log"
    plugin.fail(
      "tests_not_run", ("%s: node ended with code %s: %s"):format(call, tostring(ran.code or ran.signal), said)
    )
  end
  local counts = junit.report(arguments.report, { fail_on = arguments.fail_on })
  if counts.tests == 0 then
    plugin.fail("no_tests", call .. ": node found no tests in `" .. arguments.path .. "`")
  end
  return {
    tests = counts.tests, passed = counts.passed, failed = counts.failed + counts.errors, skipped = counts.skipped,
    ok = counts.ok,
  }
end)

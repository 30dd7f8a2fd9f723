-- python: makes virtual environments, installs packages, runs pytest with a report, and builds wheels. No argument is
-- taken for an option of pip's; an index's password is in a variable of the one command that needs it.

local environments = require("./environments")
local junit = require("junit")

local VENV = {
  type = "string", default = ".venv",
  description = "the virtual environment, below the workspace; made where there is none",
}
local CACHE = {
  type = "string", default = ".cache/pip",
  description = "where pip keeps what it fetched, below the workspace",
}
local VERSION = {
  type = "string", pattern = "%d+%.?%d*%.?%d*[%w.-]*",
  description = "runs in a container of the plugin's with this Python, such as `3.11`; by default in the caller's",
}
local ENV = {
  type = "table", values = { type = { "string", "number", "secret" } },
  description = "variables of the command",
}
local PATH = { type = "string", default = ".", description = "the project's folder, below the workspace" }
local PLAIN = "[^%-].*"

local function list(description)
  return {
    type = "list", length_minimum = 1, length_maximum = 500, items = { type = "string", pattern = PLAIN },
    description = description,
  }
end

plugin.operation("venv", {
  description = "Makes a virtual environment, unless it is there already.",
  positional = { "venv" },
  arguments = {
    venv = { type = "string", default = ".venv", description = "where, below the workspace" },
    system_packages = {
      type = "boolean", default = false,
      description = "whether packages of the container's own Python are seen in it",
    },
    version = VERSION,
    cache = CACHE,
  },
  gives = {
    path = { type = "string", required = true, description = "where it is, below the workspace" },
    python = { type = "string", required = true, description = "its Python, for process.run" },
    version = { type = "string", required = true, description = "the Python's version, such as `3.11.2`" },
    made = { type = "boolean", required = true, description = "whether it was not there before" },
  },
  example = [[local made = python.venv({ version = "3.11" })]],
}, function(arguments)
  return environments.use("python.venv", arguments, function(run, is_new)
    local told = run({ "-c", "import platform; print(platform.python_version())" }, { stdout = "off" })
    return {
      path = arguments.venv, python = "/workspace/" .. arguments.venv .. "/bin/python",
      version = told.stdout:match("[^\n]+"), made = is_new,
    }
  end)
end)

plugin.operation("install", {
  description = "Installs packages into a virtual environment with pip.",
  arguments = {
    packages = list("what to install, as pip is told it: `pytest`, `ruff==0.9.1`, `./dist/app.whl`"),
    requirements = list("requirement files of the workspace"),
    constraints = list("constraint files of the workspace"),
    project = {
      type = "string",
      description = "a project's folder, below the workspace, which is installed with what it needs",
    },
    editable = {
      type = "boolean", default = false,
      description = "whether `project` is installed so that changes to it count",
    },
    hashes = {
      type = "boolean", default = false,
      description = "refuses what has no hash in `requirements`, or another one",
    },
    only_wheels = {
      type = "boolean", default = false,
      description = "refuses packages that would be built, which runs their code",
    },
    offline = { type = "boolean", default = false, description = "asks no index; packages come from `links` alone" },
    links = list("folders of the workspace, or pages, with packages"),
    index = {
      type = { "string", "secret" },
      description = "the index to ask instead of the usual one; with a password in it, a secret: " ..
        "`\"https://me:\" .. token .. \"@example.org/simple\"`",
    },
    venv = VENV, cache = CACHE, version = VERSION, env = ENV,
  },
  gives = {
    packages = { type = "table", required = true, description = "all that is installed then: versions by name" },
  },
  example = [[python.install({ requirements = { "requirements.txt" }, hashes = true, version = "3.11" })]],
}, function(arguments)
  local call = "python.install"
  if not (arguments.packages or arguments.requirements or arguments.project) then
    plugin.fail("argument_invalid", call .. ": give `packages`, `requirements` or `project`")
  elseif arguments.hashes and not arguments.requirements then
    plugin.fail("argument_invalid", call .. ": `hashes` are in `requirements`, and there are none")
  end
  local words = { "-m", "pip", "install" }
  local function add(option, values)
    for _, value in ipairs(values or {}) do
      words[#words + 1] = option .. "=" .. value
    end
  end
  add("--requirement", arguments.requirements)
  add("--constraint", arguments.constraints)
  add("--find-links", arguments.links)
  for option, is_wanted in pairs({ ["--require-hashes"] = arguments.hashes, ["--no-index"] = arguments.offline,
    ["--only-binary=:all:"] = arguments.only_wheels }) do
    words[#words + 1] = is_wanted and option or nil
  end
  if arguments.project then
    local project = environments.path(call, "project", arguments.project)
    words[#words + 1] = arguments.editable and "--editable=" .. project or project
  end
  words[#words + 1] = "--"
  table.move(arguments.packages or {}, 1, #(arguments.packages or {}), #words + 1, words)
  if words[#words] == "--" then
    words[#words] = nil
  end
  local env = { PIP_INDEX_URL = arguments.index }
  for name, value in pairs(arguments.env or {}) do
    env[name] = value
  end
  arguments.env = env
  return environments.use(call, arguments, function(run)
    run(words, { stdout = "debug", stderr = "warn", cwd = "/workspace" })
    local packages, count = {}, 0
    local told = run({ "-m", "pip", "list", "--format=freeze" }, { stdout = "off" }).stdout
    for name, version in told:gmatch("([^\n=]+)==([^\n]+)") do
      packages[name], count = version, count + 1
    end
    log.info(call .. ": " .. arguments.venv .. " has " .. count .. " packages")
    return { packages = packages }
  end)
end)

plugin.operation("run", {
  description = "Runs the Python of a virtual environment.",
  arguments = {
    args = {
      type = "list", required = true, length_minimum = 1,
      description = "its arguments, such as `{ \"-m\", \"mypy\", \"app\" }`",
    },
    path = PATH,
    check = { type = "boolean", default = true, description = "whether an exit code other than 0 raises" },
    venv = VENV, cache = CACHE, version = VERSION, env = ENV,
  },
  gives = {
    code = { type = "integer", required = true, description = "the exit code" },
    ok = { type = "boolean", required = true, description = "whether it is 0" },
    stdout = { type = "string", required = true, description = "the output" },
    stderr = { type = "string", required = true, description = "the error output" },
    duration = { type = "number", required = true, description = "seconds" },
  },
  example = [[python.run({ args = { "-m", "compileall", "-q", "app" } })]],
}, function(arguments)
  local cwd = environments.path("python.run", "path", arguments.path)
  return environments.use("python.run", arguments, function(run)
    local ran = run(arguments.args, { cwd = cwd, check = arguments.check })
    return { code = ran.code or -1, ok = ran.ok, stdout = ran.stdout, stderr = ran.stderr, duration = ran.duration }
  end)
end)

plugin.operation("test", {
  description = "Runs pytest, stores each test, and raises with the names of those that failed.",
  arguments = {
    tests = list("files, folders and tests to run; by default what the project's configuration says"),
    select = {
      type = "string", length_minimum = 1,
      description = "only tests whose names fit this expression, as with `-k`",
    },
    report = {
      type = "string", default = "pytest.xml",
      description = "where the report is written, below the workspace",
    },
    fail_on = {
      type = "string", choices = { "failure", "never" }, default = "failure",
      description = "whether it raises when tests failed",
    },
    path = PATH, venv = VENV, cache = CACHE, version = VERSION, env = ENV,
  },
  gives = {
    tests = { type = "integer", required = true, description = "how many tests there are" },
    passed = { type = "integer", required = true, description = "how many passed" },
    failed = { type = "integer", required = true, description = "how many failed or had an error" },
    skipped = { type = "integer", required = true, description = "how many were skipped" },
    ok = { type = "boolean", required = true, description = "whether none failed" },
  },
  errors = {
    no_tests = "pytest found no tests",
    pytest_failed = "pytest did not run the tests, or not to their end",
  },
  example = [[
python.install({ packages = { "pytest" }, project = ".", version = "3.11" })
python.test({ tests = { "tests" } })]],
}, function(arguments)
  local call = "python.test"
  local cwd = environments.path(call, "path", arguments.path)
  local report = environments.path(call, "report", arguments.report)
  local words = { "-m", "pytest", "--junitxml=" .. report }
  words[#words + 1] = arguments.select and "-k=" .. arguments.select or nil
  table.move(arguments.tests or {}, 1, #(arguments.tests or {}), #words + 1, words)
  -- One of an earlier run would be taken for this one's.
  fs.remove(arguments.report)
  local ran = environments.use(call, arguments, function(run)
    return run(words, { cwd = cwd, check = false })
  end)
  if ran.code == 5 then
    plugin.fail("no_tests", call .. ": pytest found no tests")
  elseif ran.code ~= 0 and ran.code ~= 1 or not fs.exists(arguments.report) then
    local said = ran.stderr:match("([^\n]+)\n*$") or "its output is in the log"
    plugin.fail(
      "pytest_failed", ("%s: pytest ended with code %s: %s"):format(call, tostring(ran.code or ran.signal), said)
    )
  end
  local counts = junit.report(arguments.report, { fail_on = arguments.fail_on })
  return {
    tests = counts.tests, passed = counts.passed, failed = counts.failed + counts.errors, skipped = counts.skipped,
    ok = counts.ok,
  }
end)

plugin.operation("build", {
  description = "Builds a project's wheel with pip, in a build environment of its own, as the project's " ..
    "`pyproject.toml` says.",
  positional = { "path" },
  arguments = {
    path = PATH,
    out = { type = "string", default = "dist", description = "the folder that it is put into, below the workspace" },
    offline = { type = "boolean", default = false, description = "asks no index for what the build needs" },
    links = list("folders of the workspace, or pages, with packages that the build needs"),
    venv = VENV, cache = CACHE, version = VERSION, env = ENV,
  },
  gives = { wheel = { type = "string", required = true, description = "the wheel, below the workspace" } },
  errors = { no_wheel = "the build ended well and made no wheel" },
  example = [[artifact.save(python.build({ version = "3.11" }).wheel)]],
}, function(arguments)
  local call = "python.build"
  local project, out = environments.path(call, "path", arguments.path), environments.path(call, "out", arguments.out)
  local words = { "-m", "pip", "wheel", "--no-deps", "--wheel-dir=" .. out }
  for _, link in ipairs(arguments.links or {}) do
    words[#words + 1] = "--find-links=" .. link
  end
  words[#words + 1] = arguments.offline and "--no-index" or nil
  words[#words + 1] = project
  local ran = environments.use(call, arguments, function(run)
    return run(words, { stdout = "debug", stderr = "warn", cwd = "/workspace" })
  end)
  local name = ran.stdout:match("Created wheel for [^\n]*filename=(%S+)") or ran.stdout:match("([^%s/]+%.whl)")
  if not name or not fs.exists(arguments.out .. "/" .. name) then
    plugin.fail(
      "no_wheel", call .. ": pip made no wheel of `" .. arguments.path .. "`",
      "Its output is in the log at level debug."
    )
  end
  log.info(call .. ": " .. arguments.out .. "/" .. name)
  return { wheel = arguments.out .. "/" .. name }
end)

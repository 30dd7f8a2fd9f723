-- junit: stores test reports, and fails the stage whose tests failed. All reports are read and stored before it fails.

local names = require("./names")

local SHOWN_MAXIMUM = 10
local READ_MAXIMUM = 16 * 1024 * 1024

local COUNTS = { "tests", "passed", "failed", "errors", "skipped" }

local function number(description)
  return { type = "integer", required = true, description = description }
end

plugin.operation("report", {
  description = "Reads reports in JUnit's XML, stores each test, and raises if one failed. A pattern that names " ..
    "no file raises, too.",
  positional = { "paths" },
  arguments = {
    paths = {
      type = { "string", "list" }, required = true, length_minimum = 1, length_maximum = 100,
      items = { type = "string", length_minimum = 1 },
      description = "the reports: a file or a pattern, or a list of them",
    },
    fail_on = {
      type = "string", choices = { "failure", "never" }, default = "failure",
      description = "whether it raises when a test failed or had an error",
    },
    keep = {
      type = "string", length_minimum = 1,
      description = "keeps the reports as an artifact of this name, such as `reports.zip`",
    },
  },
  gives = {
    tests = number("how many tests there are"),
    passed = number("how many passed"),
    failed = number("how many failed"),
    errors = number("how many had an error"),
    skipped = number("how many were skipped"),
    duration = { type = "number", required = true, description = "seconds that all took together" },
    ok = { type = "boolean", required = true, description = "whether none failed and none had an error" },
    failures = {
      type = "list", required = true, description = "the first ten that failed or had an error",
      items = {
        type = "table",
        fields = {
          name = { type = "string", required = true, description = "with its class before it" },
          kind = { type = "string", required = true, choices = { "failure", "error" }, description = "which it was" },
          message = { type = "string", description = "the first line of what the report says" },
        },
      },
    },
  },
  errors = { tests_failed = "a test failed or had an error" },
  example = [[
local counts = junit.report("build/**/TEST-*.xml", { fail_on = "never" })
log.info(counts.passed .. " of " .. counts.tests .. " tests passed")]],
}, function(arguments)
  local paths = type(arguments.paths) == "table" and arguments.paths or { arguments.paths }
  local total = { duration = 0, ok = true, failures = {} }
  for _, name in ipairs(COUNTS) do
    total[name] = 0
  end
  for _, path in ipairs(paths) do
    local counts = artifact.test_report(path)
    for _, name in ipairs(COUNTS) do
      total[name] = total[name] + counts[name]
    end
    total.duration, total.ok = total.duration + counts.duration, total.ok and counts.ok
  end
  if arguments.keep then
    artifact.save({ glob = #paths == 1 and paths[1] or "{" .. table.concat(paths, ",") .. "}", name = arguments.keep })
  end
  if total.ok then
    return total
  end
  local seen = {}
  for _, path in ipairs(paths) do
    for _, file in ipairs(fs.glob(path)) do
      local wanted = SHOWN_MAXIMUM - #total.failures
      if not seen[file] and wanted > 0 and fs.size(file) <= READ_MAXIMUM then
        local failures = names(fs.read(file), wanted)
        table.move(failures, 1, #failures, #total.failures + 1, total.failures)
      end
      seen[file] = true
    end
  end
  local lines = {}
  for index, one in ipairs(total.failures) do
    lines[index] = one.name .. (one.message and ": " .. one.message or "")
    log.error(one.kind .. ": " .. lines[index])
  end
  if arguments.fail_on == "failure" then
    local bad = total.failed + total.errors
    local shown = {}
    for index, one in ipairs(total.failures) do
      shown[index] = one.name
    end
    local listed = shown[1] and ": " .. table.concat(shown, ", ") .. (bad > #shown and ", ..." or "") or ""
    plugin.fail("tests_failed", ("junit.report: %d of %d tests failed%s"):format(bad, total.tests, listed),
      '`fail_on = "never"` gives the counts and lets the pipeline decide.')
  end
  return total
end)

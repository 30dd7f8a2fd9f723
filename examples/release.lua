-- A release from end to end: version, cache, a matrix of tests beside a service, a signed archive, an announcement.
--   moonyard submit release --input ref=main --follow   (each part has an example of its own)

local slack = require("slack")

local FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).status)"

local function sh(script, options)
  return process.run({ command = "sh", args = { "-euc", script }, env = options })
end

return {
  name = "release",
  description = "Builds, tests, signs, keeps and announces a release",
  plugins = { "slack@1" },
  inputs = {
    ref = { default = "main", description = "what is released" },
    part = { default = "minor", choices = { "major", "minor", "patch" } },
    announce = { type = "boolean", default = true },
  },
  concurrency = { group = "release-${ref}", limit = 1 },
  timeout = "30m",
  stages = {
    {
      name = "prepare",
      script = function(job)
        fs.write("packages.lock", "left-pad 1.3.0\n") -- a checkout would bring it: examples/git.lua
        job.output("version", semver.bump("1.4.2", job.inputs.part))
      end,
    },
    {
      name = "build",
      cache = { key = "packages", files = { "packages.lock" }, paths = { "packages" }, scope = "${ref}" },
      retries = { times = 2, delay = "1s" },
      script = function(job)
        log.group("packages", function()
          sh("test -e packages/list || { echo fetching; mkdir packages; cp packages.lock packages/list; }")
        end)
        log.group("compile", function()
          sh('mkdir -p dist; echo "app $VERSION" > dist/app; cat packages/list > dist/licences',
            { VERSION = job.outputs.version })
        end)
      end,
    },
    {
      name = "test",
      needs = { "build" },
      matrix = { python = { "3.11", "3.11-alpine" } },
      container = "docker.io/library/python:${python}",
      services = {
        api = {
          image = "docker.io/library/python:3.11",
          command = { "python3", "-um", "http.server", "8000" },
          ready = { port = 8000 },
        },
      },
      script = function(job)
        process.run({ command = "python3", args = { "-c", FETCH, "http://api:8000/" } })
        local report = "report-" .. job.matrix.python .. ".xml"
        fs.write(report, '<testsuite name="api"><testcase name="answers" time="0.1"/></testsuite>')
        assert(artifact.test_report(report).ok)
      end,
    },
    {
      name = "pack",
      needs = { "test" },
      script = function(job)
        local name = "app-" .. job.outputs.version .. ".tar.gz"
        archive.create(name, { from = "dist" }) -- the same files give the same bytes
        -- The key goes to the one command that needs it, and not through Lua.
        process.run({
          command = "sh",
          args = { "-euc", '{ cat "$0"; printf %s "$KEY"; } | sha256sum | cut -d " " -f 1 > "$0.sig"', name },
          secrets = { KEY = "SIGNING_KEY" },
        })
        local kept = artifact.save(name, { retention = "365d" })
        artifact.save(name .. ".sig", { retention = "365d" })
        job.output("sha256", kept.sha256)
      end,
    },
  },
  finally = {
    {
      name = "announce",
      script = function(job)
        local words = job.state == "succeeded" and "is out, " .. job.outputs.sha256:sub(1, 12) or job.state
        if job.inputs.announce then
          slack.post("Release " .. (job.outputs.version or "of " .. job.inputs.ref) .. " " .. words, {
            webhook = secret.get("SLACK_WEBHOOK"),
          })
        end
        log.info("release " .. words)
      end,
    },
  },
}

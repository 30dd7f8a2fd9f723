-- Builds for several systems at the same time, and tells how it went whatever became of them.
-- Run it: moonyard run examples/matrix.lua
-- Try it: --input broken=alpine has one of them fail; the others go on, for the pipeline says so.
return {
  name = "matrix",
  fail_fast = false,
  parallel = 4,
  inputs = {
    broken = { default = "none", choices = { "none", "alpine", "debian" }, description = "which system fails" },
  },
  stages = {
    {
      name = "prepare",
      script = function()
        process.run({ command = "sh", args = { "-c", "echo 1.2.3 > version" } })
      end,
    },
    {
      name = "lint",
      needs = { "prepare" },
      allow_failure = true,
      script = function()
        log.warn("nobody has written a linter yet")
        error("no linter", 0)
      end,
    },
    {
      name = "build",
      needs = { "prepare" },
      matrix = { os = { "alpine:latest", "debian:bookworm" }, level = { 1, 2 } },
      container = "docker.io/library/${os}",
      script = function(job)
        local os, level = job.matrix.os, job.matrix.level
        process.run({
          command = "sh",
          args = { "-c", 'echo "$OS at level $LEVEL: version $(cat version)"; case $OS in $BROKEN:*) exit 1; esac' },
          env = { OS = os, LEVEL = level, BROKEN = job.inputs.broken },
        })
      end,
    },
    {
      name = "publish",
      needs = { "build" },
      when = function(job)
        return job.stages["build (os=alpine:latest, level=1)"] == "succeeded"
      end,
      script = function()
        log.info("published")
      end,
    },
    {
      name = "tell",
      when = "always",
      script = function(job)
        for _, os in ipairs({ "alpine:latest", "debian:bookworm" }) do
          log.info(os, job.stages["build (os=" .. os .. ", level=1)"])
        end
        log.info("publish", job.stages.publish)
      end,
    },
  },
}

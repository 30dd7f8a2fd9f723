-- Keeps what a job made: with checksums, for some days only, as an archive; and brings it back in a later stage or job.
--   moonyard run examples/artifacts.lua

return {
  name = "artifacts",
  -- artifact_readers = { "deploy" },   -- lets jobs of that pipeline fetch them, too
  stages = {
    {
      name = "build",
      script = function(job)
        fs.mkdir("dist/doc")
        fs.write("dist/app", "#!/bin/sh\necho app 1.4.2\n", { mode = "0755" })
        fs.write("dist/doc/index.html", "<h1>app</h1>\n")
        -- One line a file, as `sha256sum -c` reads it.
        local sums = {}
        for _, path in ipairs(fs.glob("dist/**")) do
          table.insert(sums, fs.hash(path) .. "  " .. path .. "\n")
        end
        fs.write("SHA256SUMS", table.concat(sums))

        artifact.save("SHA256SUMS", { retention = "30d" })
        local kept = artifact.save("dist", { name = "app.tar.gz", exclude = { "**/*.tmp" } })
        job.output("sha256", kept.sha256)
      end,
    },
    {
      name = "verify",
      script = function()
        fs.remove("dist", { recursive = true })
        -- With `job = 17`, of that job; with `pipeline = "artifacts"`, of its newest that succeeded.
        artifact.fetch("app.tar.gz", { to = "dist", extract = true })
        process.run({ command = "sha256sum", args = { "-c", "SHA256SUMS" } })
        for _, one in ipairs(artifact.list()) do
          log.info(one.name, { size = one.size })
        end
      end,
    },
  },
}

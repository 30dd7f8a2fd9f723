-- Files, archives and data without a container: the pipeline itself packs a release with a manifest of its files.
--   moonyard run examples/files.lua --input version=1.4.2

return {
  name = "files",
  inputs = { version = { type = "string", default = "0.1.0", description = "what the release is called" } },
  stages = {
    {
      name = "make",
      script = function(job)
        fs.mkdir("app/bin")
        fs.write("app/bin/greet", "#!/bin/sh\necho hello from " .. job.inputs.version .. "\n", { mode = "0755" })
        fs.write_yaml("app/config.yaml", { greeting = { language = "en", loud = false } })
        -- A command in a container works on the same files.
        process.run({ command = "sh", args = { "-c", "app/bin/greet > app/greeting.txt" } })
      end,
    },
    {
      name = "pack",
      script = function(job)
        local manifest = { version = job.inputs.version, files = {} }
        for _, path in ipairs(fs.glob("app/**")) do
          manifest.files[path] = { size = fs.size(path), sha256 = fs.hash(path) }
        end
        fs.write_json("app/manifest.json", manifest)
        local archive_name = "app-" .. job.inputs.version .. ".tar.gz"
        local made = archive.create(archive_name, { from = "app" })
        log.info(archive_name, "has", made.files, "files in", made.size, "bytes")
      end,
    },
    {
      name = "look",
      script = function(job)
        archive.extract("app-" .. job.inputs.version .. ".tar.gz", { to = "unpacked" })
        for path, facts in pairs(fs.read_json("unpacked/manifest.json").files) do
          assert(fs.hash((path:gsub("^app", "unpacked"))) == facts.sha256, path .. " is not what it was")
        end
        for line in fs.lines("unpacked/greeting.txt") do
          log.info("the greeting is:", line)
        end
      end,
    },
  },
}

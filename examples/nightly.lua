-- Made for a schedule: never twice at the same time, named by the day, and quiet unless there is something to say.
--   moonyard schedule create every-night nightly "30 2 * * *" --time-zone Europe/Berlin

return {
  name = "nightly",
  concurrency = 1, -- one that is still running lets the next one wait,
  queue_timeout = "6h", -- and not for ever
  retries = { times = 2, delay = "10m" },
  timeout = "2h",
  priority = -10, -- people's jobs go first
  inputs = { keep = { type = "integer", default = 7, description = "for how many days a backup is kept" } },
  stages = {
    {
      name = "backup",
      script = function(job)
        local day = time.format(time.now(), { format = "%Y-%m-%d" })
        fs.mkdir("data")
        fs.write("data/rows.csv", "id,name\n1,moon\n")
        archive.create("backup-" .. day .. ".tar.zst", { from = "data" })
        artifact.save("backup-" .. day .. ".tar.zst", { retention = job.inputs.keep .. "d" })
        if job.trigger.kind == "schedule" then
          log.info("asked for by schedule " .. job.trigger.by)
        else
          log.info("asked for by hand")
        end
      end,
    },
  },
}

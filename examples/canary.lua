-- Rolls out step by step, asks after each how the new version does, and goes back by itself when it does badly.
--   moonyard run examples/canary.lua --input url=https://router.example.org

return {
  name = "canary",
  inputs = {
    url = { description = "the router's API" },
    version = { default = "1.5.0" },
    pause = { default = "5m", description = "how long a step is watched" },
  },
  stages = {
    {
      name = "roll",
      script = function(job)
        local router = http.client({ base_url = job.inputs.url, timeout = "10s", retries = 3 })
        local function send(percent)
          router.put("/share", { json = { version = job.inputs.version, percent = percent } })
          log.info(percent .. " % of the requests go to " .. job.inputs.version)
        end

        for _, percent in ipairs({ 5, 25, 100 }) do
          send(percent)
          local seen = 0
          local ok, problem = pcall(retry, {
            times = 2, -- one bad minute is no bad version
            fn = function()
              sleep(job.inputs.pause)
              local health = router.get("/health", { query = { version = job.inputs.version } }).json()
              seen = health.errors
              assert(health.errors <= 1, "too many errors")
            end,
          })
          if not ok then
            send(0)
            log.error("at " .. percent .. " % there were errors", { errors = seen })
            error(problem, 0)
          end
        end
        job.output("live", job.inputs.version)
      end,
    },
  },
}

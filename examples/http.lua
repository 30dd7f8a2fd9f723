-- Talks to a web API: a client with a rate, JSON both ways, tries again what may pass, and a download into a file.
--   moonyard run examples/http.lua --input url=https://api.example.org

return {
  name = "http",
  inputs = { url = { description = "where the API is" } },
  stages = {
    {
      name = "release",
      script = function(job)
        local api = http.client({ base_url = job.inputs.url, rate = "20/s", headers = { Accept = "application/json" } })

        -- 429, 502, 503, 504 and no answer at all are tried again, after what `Retry-After` says.
        local state = api.get("/state", { retries = 5 }).json()
        log.info("the API is " .. state.state)

        -- A POST is tried again only where somebody says so: it might have been done.
        local made = api.post("/releases", { json = { tag = "v1.4.2", draft = false }, retries = 2 }).json()
        log.info("made release " .. made.id)

        local missing = api.get("/releases/0", { check = false }) -- its status is an answer
        assert(missing.status == 404 and not missing.ok)

        local download = api.get("/releases/" .. made.id .. "/download", { to = "app.bin", timeout = "10m" })
        log.info("downloaded " .. download.size .. " bytes, " .. fs.hash("app.bin"):sub(1, 12))
      end,
    },
  },
}

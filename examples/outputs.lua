-- From stage to stage: Lua's variables, files of the workspace, and results that people and programs see afterwards.
--   moonyard submit outputs --follow && moonyard job 1

local started = {} -- lives for the whole job, whatever containers come and go

return {
  name = "outputs",
  env = { LEVEL = "release" }, -- for all commands, and for `env` in Lua
  stages = {
    {
      name = "build",
      script = function(job)
        started.at = time.now()
        process.run({ command = "sh", args = { "-c", 'echo "built at level $LEVEL" > built.txt' } })
        job.output("image", "registry.example.org/app:1.4.2")
        job.output("sizes", { app = fs.size("built.txt"), docs = 0 })
      end,
    },
    {
      name = "deploy",
      script = function(job)
        log.info("deploying " .. job.outputs.image, job.outputs.sizes)
        log.info(fs.read("built.txt"):gsub("\n", "") .. ", as told: " .. env.get("LEVEL", "none"))
        log.info("since the build: " .. time.duration(math.floor(time.now() - started.at)))
      end,
    },
  },
}

-- A long build and a deployment that fails: the next try begins with the deployment, and with the files of the build.
--   moonyard submit resume --follow; moonyard retry 1 --from deploy

return {
  name = "resume",
  keep_workspace = "1d", -- of an attempt that failed
  stages = {
    {
      name = "build",
      script = function(job)
        log.info("this takes an hour, once")
        fs.write("app.txt", "built in attempt " .. job.attempt .. "\n")
        job.output("version", "1.4.2")
      end,
    },
    {
      name = "deploy",
      script = function(job)
        -- Files and outputs of the stages before are there; their Lua variables are not.
        log.info("deploying " .. job.outputs.version .. ", " .. fs.read("app.txt"):gsub("\n", ""))
        if job.attempt == 1 then
          error("the server is being repaired", 0)
        end
      end,
    },
  },
}

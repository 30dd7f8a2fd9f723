-- Reads and changes configuration in YAML, TOML and JSON, and fills a template, without a container.
--   moonyard run examples/config.lua --input environment=production

local SERVER = [[
server {
  listen {{port}};
  {{#hosts}}
  server_name {{.}};
  {{/hosts}}
}
]]

return {
  name = "config",
  inputs = { environment = { default = "staging", choices = { "staging", "production" } } },
  stages = {
    {
      name = "write",
      script = function(job)
        -- What a repository would bring along.
        fs.write("app.yaml", "port: 8080\nreplicas: { staging: 1, production: 3 }\nhosts: [a.example, b.example]\n")
        fs.write("Project.toml", '[package]\nname = "app"\nversion = "1.4.2"\n')

        local app = fs.read_yaml("app.yaml")
        app.replicas = app.replicas[job.inputs.environment]
        fs.write_yaml("app.yaml", app)

        local project = fs.read_toml("Project.toml")
        project.package.version = semver.bump(project.package.version, "minor")
        fs.write_toml("Project.toml", project)

        fs.write_json("build.json", { version = project.package.version, environment = job.inputs.environment })
        fs.write("server.conf", template.render(SERVER, app))
        for line in fs.lines("server.conf") do
          log.debug(line)
        end
        log.info(json.encode(fs.read_json("build.json")), "replicas " .. app.replicas)
      end,
    },
  },
}

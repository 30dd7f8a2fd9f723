-- A server beside the job: started first, asked whether it is ready, reached by its name, gone at the end.
--   moonyard run examples/services.lua

local ask = [[
import json, sys, urllib.request
print(json.load(urllib.request.urlopen(sys.argv[1], timeout=10))["greeting"])
]]

local serve = [[
import http.server, json, os
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"greeting": os.environ["GREETING"]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("", 8000), Server).serve_forever()
]]

return {
  name = "services",
  services = {
    api = {
      image = "docker.io/library/python:3.11",
      command = { "python3", "-uc", serve },
      env = { GREETING = "hello from beside" },
      ready = { port = 8000, timeout = "30s" },
    },
  },
  stages = {
    {
      name = "ask",
      container = "docker.io/library/python:3.11",
      script = function()
        local r = process.run({ command = "python3", args = { "-c", ask, "http://api:8000/" } })
        log.info("it said: " .. r.stdout:gsub("%s+$", ""))
      end,
    },
  },
}

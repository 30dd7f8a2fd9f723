-- Tests against a database of the job's own: each stage gets a fresh one, ready before its script begins.
--   moonyard run examples/database.lua

-- Stands in for docker.io/library/postgres, whose `ready` would be { command = { "pg_isready", "-h", "127.0.0.1" } }.
local SERVE = [[
import os, socketserver, sqlite3
db = sqlite3.connect(":memory:", isolation_level=None)
class Session(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            rows = db.execute(line.decode()).fetchall()
            self.wfile.write((repr(rows) + "\n").encode())
open("/tmp/ready", "w").close()
socketserver.TCPServer(("", 5432), Session).serve_forever()
]]

local ASK = [[
import socket, sys
with socket.create_connection(("db", 5432)) as session:
    lines = session.makefile("rw")
    for statement in sys.argv[1:]:
        print(statement, file=lines, flush=True)
        print(lines.readline().strip())
]]

local function ask(...)
  return process.run({ command = "python3", args = { "-c", ASK, ... } }).stdout
end

local db = {
  image = "docker.io/library/python:3.11",
  command = { "python3", "-uc", SERVE },
  env = { POSTGRES_PASSWORD = "only for tests" },
  ready = { port = 5432, timeout = "30s" },
}

return {
  name = "database",
  stages = {
    {
      name = "migrate",
      container = "docker.io/library/python:3.11",
      services = { db = db },
      needs = {},
      script = function()
        ask("CREATE TABLE moons (name text)", "INSERT INTO moons VALUES ('Io'), ('Europa')")
        assert(ask("SELECT count(*) FROM moons") == "[(2,)]\n")
      end,
    },
    {
      -- At the same time, with a database of the same name, in which nobody else writes.
      name = "empty",
      container = "docker.io/library/python:3.11",
      services = { db = db },
      needs = {},
      script = function()
        assert(ask("SELECT count(*) FROM sqlite_master") == "[(0,)]\n")
        log.info("nothing is here but what this stage brings")
      end,
    },
  },
}

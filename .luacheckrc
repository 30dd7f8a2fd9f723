-- luacheck: Lua 5.4, and the modules that every pipeline and plugin has without asking (docs/pipelines.md).
std = "lua54"
max_line_length = 120
read_globals = {
  "archive", "artifact", "base64", "container", "fs", "hash", "json", "log", "process", "time", "toml", "yaml",
}

files["plugins/*/stubs.lua"] = { ignore = { "212" } } -- unused arguments: a stub has no body

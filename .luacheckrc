-- luacheck: Lua 5.4, and the modules that every pipeline and plugin has without asking (docs/pipelines.md).
std = "lua54"
max_line_length = 120
read_globals = { "artifact", "container", "log", "process", "time" }

files["plugins/*/stubs.lua"] = { ignore = { "212" } } -- unused arguments: a stub has no body

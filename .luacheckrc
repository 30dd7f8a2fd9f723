-- luacheck: Lua 5.4, and the modules that every pipeline and plugin has without asking (docs/pipelines.md).
std = "lua54"
max_line_length = 120
read_globals = {
  "archive", "artifact", "base64", "container", "env", "fs", "hash", "http", "job", "json", "log", "parallel", "process",
  "regex", "retry", "secret", "semver", "sleep", "template", "time", "toml", "yaml",
}

-- A plugin's code declares what it has by one more (docs/plugins.md), whose `state` is its own.
files["plugins/**/*.lua"] = { globals = { "plugin" } }
files["cli/plugin_skeleton/*.lua"] = { globals = { "plugin" } }

-- Test files have more (docs/testing.md).
files["**/*_test.lua"] = {
  read_globals = { "after_each", "before_each", "describe", "expect", "it", "mock", "pipeline" },
}

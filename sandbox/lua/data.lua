-- data: the Lua face of `json`, `yaml`, `toml`, `hash` and `base64`. What they do is done on the runner.
--
-- Inputs: call(plugin, name, ...), which makes a host call, raise(code, message, hint), positional (the table that
--         positional.lua gives), and messages (that of messages.lua).
-- Gives:  { names, build(plugin) -> modules by name }

local call, raise, positional, messages = ...

local type, next, ipairs = type, next, ipairs

local HASHES = { "blake2b", "md5", "sha1", "sha256", "sha512" }

-- A value may be a table, or nil, so it is no argument like others.
local function build_encode(plugin, name)
  return function(value, options)
    if options ~= nil and type(options) ~= "table" then
      raise("argument_invalid", name .. " takes a value and then a table of options, got a " .. type(options))
    end
    local arguments = {}
    for key, option in next, options or arguments do
      arguments[key] = option
    end
    if value == nil then
      value = messages.null
    end
    arguments.value = value
    return call(plugin, name, arguments)
  end
end

local function build_format(plugin, name)
  return {
    encode = build_encode(plugin, name .. ".encode"),
    decode = positional.build(plugin, name .. ".decode", { "text" }),
  }
end

return {
  names = { "base64", "hash", "json", "toml", "yaml" },
  build = function(plugin)
    local modules = {
      json = build_format(plugin, "json"),
      yaml = build_format(plugin, "yaml"),
      toml = build_format(plugin, "toml"),
      hash = {},
      base64 = {
        encode = positional.build(plugin, "base64.encode", { "data" }),
        decode = positional.build(plugin, "base64.decode", { "text" }),
      },
    }
    for _, name in ipairs(HASHES) do
      modules.hash[name] = positional.build(plugin, "hash." .. name, { "data" })
    end
    modules.hash.hmac = positional.build(plugin, "hash.hmac", { "key", "data" })
    modules.json.null = messages.null
    modules.json.array = function(list)
      if type(list) ~= "table" then
        raise("argument_invalid", "json.array takes a table, got a " .. type(list))
      end
      messages.mark_list(list)
      return list
    end
    return modules
  end,
}

-- http: the Lua face of `http`. Requests are sent by the runner.
--
-- Inputs: call(plugin, name, ...), which makes a host call, raise(code, message, hint), and positional (the table that
--         positional.lua gives).
-- Gives:  { names, build(plugin) -> modules by name }

local call, raise, positional = ...

local type, next, ipairs, tostring = type, next, ipairs, tostring

local METHODS = { "get", "head", "post", "put", "patch", "delete" }
-- What a client has for all its requests. Headers are added to, the others are replaced by a request's own.
local CLIENT = { "base_url", "rate", "burst" }
local SHARED = { "headers", "auth", "timeout", "retries", "follow", "verify", "limit", "check" }

local function copy(given)
  local made = {}
  for key, value in next, given do
    made[key] = value
  end
  return made
end

-- The answer's body is decoded when it is asked for: most are never.
local function with_json(plugin, answer)
  answer.json = function()
    return call(plugin, "json.decode", { text = answer.body })
  end
  return answer
end

local function build_functions(plugin, prefix, client, shared)
  local function send(name, method, ...)
    local arguments = copy(positional.collect(name, { "url" }, ...))
    if method then
      if arguments.method ~= nil then
        raise("argument_invalid", name .. ": `method` is not an argument", "http.request takes any method.")
      end
      arguments.method = method
    end
    if arguments.client ~= nil then
      raise("argument_invalid", name .. ": `client` is not an argument")
    end
    if client then
      for key, value in next, shared do
        if key == "headers" then
          local headers = copy(value)
          for header, content in next, type(arguments.headers) == "table" and arguments.headers or {} do
            headers[header] = content
          end
          arguments.headers = headers
        elseif arguments[key] == nil then
          arguments[key] = value
        end
      end
      arguments.client = client
    end
    return with_json(plugin, call(plugin, "http.request", name, arguments))
  end
  local functions = {
    request = function(...)
      return send(prefix .. "request", nil, ...)
    end,
  }
  for _, method in ipairs(METHODS) do
    functions[method] = function(...)
      return send(prefix .. method, method:upper(), ...)
    end
  end
  return functions
end

local function build_client(plugin)
  return function(options)
    if type(options) ~= "table" then
      raise(
        "argument_invalid",
        "http.client takes one table of named arguments, got " .. (options == nil and "nil" or "a " .. type(options)),
        'Write http.client({ base_url = "https://api.example.org", rate = "10/s" }).'
      )
    end
    local left, client, shared = copy(options), {}, {}
    for _, key in ipairs(CLIENT) do
      client[key], left[key] = left[key], nil
    end
    for _, key in ipairs(SHARED) do
      shared[key], left[key] = left[key], nil
    end
    local unknown = next(left)
    if unknown ~= nil then
      raise("argument_invalid", "http.client: `" .. tostring(unknown) .. "` is not an argument")
    end
    if shared.headers ~= nil and type(shared.headers) ~= "table" then
      raise("argument_invalid", "http.client: `headers` must be a table with names, got a " .. type(shared.headers))
    end
    return build_functions(plugin, "http.", client, shared)
  end
end

return {
  names = { "http" },
  build = function(plugin)
    local http = build_functions(plugin, "http.")
    http.client = build_client(plugin)
    return { http = http }
  end,
}

-- jobs: the Lua face of `job` and `env`: what the job is, and what it was given.
--
-- A script gets its job as its argument; the global `job` is the same table, of whichever script has its turn. Facts
-- came with the script's beginning and cost no call; only `job.output` asks the runner.
--
-- Inputs: call(plugin, name, ...), which makes a host call, raise(code, message, hint), and current(), which gives the
--         running script's job, or nil while the file is loaded.
-- Gives:  { names, prepare(facts) -> facts with their functions, build(plugin) -> modules by name }

local call, raise, current = ...

local type, next, tostring, getmetatable, setmetatable = type, next, tostring, getmetatable, setmetatable

local function facts_of(name)
  local facts = current()
  if not facts then
    raise(
      "call_at_top_level",
      name .. " is not known while the file is loaded: a pipeline is loaded to be checked, too",
      "Use it in a stage's `script` function."
    )
  end
  return facts
end

local function variables()
  return facts_of("env").env or {}
end

local function check_name(name, of)
  if type(name) ~= "string" then
    raise("argument_invalid", of .. ": the variable's name must be a string, got a " .. type(name))
  end
end

local function copied(value)
  if type(value) ~= "table" or getmetatable(value) then -- `json.null` is itself
    return value
  end
  local copy = {}
  for key, inner in next, value do
    copy[key] = copied(inner)
  end
  return copy
end

-- A plugin has tables of its own: what it does to them changes nothing for the pipeline.
local function type_for(plugin)
  return {
    __name = "job",
    __metatable = "job",
    __index = function(_, key)
      local value = facts_of("job")[key]
      return plugin and copied(value) or value
    end,
    __newindex = function(_, key)
      raise(
        "argument_invalid", "job: `" .. tostring(key) .. "` cannot be set", "job.output(name, value) tells results."
      )
    end,
    -- Of a copy: what `pairs` gives is no way to the table itself.
    __pairs = function()
      return next, copied(facts_of("job")), nil
    end,
  }
end

return {
  names = { "env", "job" },
  prepare = function(facts)
    facts.outputs = facts.outputs or {}
    facts.output = function(name, value)
      -- What later stages find is what this one finds: as it came back from the runner.
      facts.outputs[name] = call(nil, "job.output", { name = name, value = value })
    end
    return facts
  end,
  build = function(plugin)
    return {
      job = setmetatable({}, type_for(plugin)),
      env = {
        get = function(name, default)
          check_name(name, "env.get")
          local value = variables()[name]
          if value == nil then
            return default
          end
          return value
        end,
        require = function(name)
          check_name(name, "env.require")
          local value = variables()[name]
          if value == nil then
            raise(
              "variable_unknown",
              "env.require: the job was given no variable `" .. name .. "`",
              "Variables stand in the pipeline's `env`; the runner's own are in no job's reach."
            )
          end
          return value
        end,
        all = function()
          local copy = {}
          for name, value in next, variables() do
            copy[name] = value
          end
          return copy
        end,
      },
    }
  end,
}

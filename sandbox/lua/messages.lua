-- messages: writes and reads the frames between this Lua state and the runner, as MessagePack with a length before
-- each.
--
-- Guarantees:
--   * plain values only: nil, booleans, numbers, strings, tables of these; raw access, so no metamethod of a script
--     runs;
--   * a string that is valid UTF-8 goes as text, any other as bytes; a table with exactly the keys 1..n goes as a list;
--   * nesting and size are bounded, and what does not fit raises an error that names it;
--   * a function is refused, or, where `functions` is set, goes as an extension that holds its line;
--   * a secret goes as an extension that holds names of secrets, and the text around them.
--
-- Inputs: none. Gives { encode = function(value, functions) -> string, decode = function(string, at) -> value, null =
-- ..., mark_list = function(table), secrets = ... }, where `secrets` has the parts of those tables that are secrets (a
-- part is text, or a table with a name), `null` stands for nil in a list, which cannot hold one, and `at` is where in
-- the string to begin. A table that was marked goes as a list when it is empty, too, as one does that came as one.

local DEPTH_MAXIMUM = 64
local BYTES_MAXIMUM = 24 * 1024 * 1024
local VALUES_MAXIMUM = 1000000
local NUMBER_KEYS_MAXIMUM = 10000 -- the runner takes no more (sandbox/values.py says why)
local FUNCTION_EXTENSION = 1
local NULL_EXTENSION = 2
local SECRET_EXTENSION = 3

local error, type, rawlen, next, utf8_len, math_type = error, type, rawlen, next, utf8.len, math.type
local pack, unpack, sub, byte = string.pack, string.unpack, string.sub, string.byte
local concat, getinfo = table.concat, debug.getinfo

local setmetatable, rawequal = setmetatable, rawequal

-- Scripts see it as `json.null`: they can print it, and not give it a metatable.
local null = setmetatable({}, {
  __name = "null",
  __metatable = false,
  __tostring = function()
    return "null"
  end,
})
local lists = setmetatable({}, { __mode = "k" }) -- the tables that are lists even when they are empty
local secrets = setmetatable({}, { __mode = "k" }) -- the parts of the tables that stand for secrets
local KEY_KINDS = { string = true, number = true, boolean = true }

local function is_list(value, length)
  local count = 0
  for key in next, value do
    if math_type(key) ~= "integer" or key < 1 or key > length then
      return false
    end
    count = count + 1
  end
  return count == length
end

local function refuse(code, message)
  error({ code = code, message = message }, 0)
end

local function encode_string(value)
  local size = #value
  if utf8_len(value) then
    if size < 32 then
      return pack("B", 0xa0 | size) .. value
    end
    return pack(">BI4", 0xdb, size) .. value
  end
  return pack(">BI4", 0xc6, size) .. value
end

local function encode_secret(parts)
  local encoded, bytes = { pack(">BI4", 0xdd, #parts) }, 5
  for index = 1, #parts do
    local part = parts[index]
    local text = type(part) == "table" and "\x91" .. encode_string(part.name) or encode_string(part)
    encoded[index + 1] = text
    bytes = bytes + #text
  end
  return pack(">BI4B", 0xc9, bytes, SECRET_EXTENSION) .. concat(encoded)
end

local function encode(root, functions)
  local parts, count, bytes, values, number_keys = {}, 0, 0, 0, 0

  local function put(part)
    count = count + 1
    parts[count] = part
    bytes = bytes + #part
    if bytes > BYTES_MAXIMUM then
      refuse("too_large", "more than 24 MiB cannot be passed at once")
    end
  end

  local function write(value, depth)
    values = values + 1
    if values > VALUES_MAXIMUM then
      refuse("too_large", "a table of more than 1,000,000 values cannot be passed at once")
    end
    local kind = type(value)
    if kind == "string" then
      put(encode_string(value))
    elseif kind == "number" then
      if math_type(value) == "integer" then
        if value >= 0 and value < 128 then
          put(pack("B", value))
        else
          put(pack(">Bi8", 0xd3, value))
        end
      else
        put(pack(">Bd", 0xcb, value))
      end
    elseif kind == "boolean" then
      put(value and "\xc3" or "\xc2")
    elseif kind == "nil" or rawequal(value, null) then
      put("\xc0")
    elseif kind == "table" and secrets[value] then
      put(encode_secret(secrets[value]))
    elseif kind == "table" then
      if depth >= DEPTH_MAXIMUM then
        refuse("too_deep", "a table nested deeper than 64 levels (or in itself) cannot be passed")
      end
      local length = rawlen(value)
      if length > 0 and is_list(value, length) then
        put(pack(">BI4", 0xdd, length))
        for index = 1, length do
          write(value[index], depth + 1)
        end
      else
        local size = 0
        for _ in next, value do
          size = size + 1
        end
        put(pack(">BI4", size == 0 and lists[value] and 0xdd or 0xdf, size))
        for key, item in next, value do
          if not KEY_KINDS[type(key)] then
            refuse("not_plain", "a table with a " .. type(key) .. " for a key cannot be passed; plain values can")
          elseif type(key) == "number" then
            number_keys = number_keys + 1
            if number_keys > NUMBER_KEYS_MAXIMUM then
              refuse("too_large", "tables with more than 10,000 numbers for names cannot be passed at once")
            end
          end
          write(key, depth + 1)
          write(item, depth + 1)
        end
      end
    elseif kind == "function" and functions then
      put(pack(">BBi4", 0xd6, FUNCTION_EXTENSION, getinfo(value, "S").linedefined))
    else
      refuse("not_plain", "a " .. kind .. " cannot be passed; plain values can")
    end
  end

  write(root, 0)
  return concat(parts)
end

local read

local function read_list(data, at, length)
  local list = {}
  for index = 1, length do
    list[index], at = read(data, at)
  end
  if length == 0 then
    lists[list] = true
  end
  return list, at
end

local function read_map(data, at, length)
  local map = {}
  for _ = 1, length do
    local key, value
    key, at = read(data, at)
    value, at = read(data, at)
    if key ~= nil then
      map[key] = value
    end
  end
  return map, at
end

local function read_bytes(data, at, length)
  return sub(data, at, at + length - 1), at + length
end

-- By the lead byte: the format of what follows, and what to make of it (nothing: it is the value itself).
local READERS = {
  [0xc4] = { ">I1", read_bytes }, [0xc5] = { ">I2", read_bytes }, [0xc6] = { ">I4", read_bytes },
  [0xca] = { ">f" }, [0xcb] = { ">d" },
  [0xcc] = { ">I1" }, [0xcd] = { ">I2" }, [0xce] = { ">I4" }, [0xcf] = { ">i8" },
  [0xd0] = { ">i1" }, [0xd1] = { ">i2" }, [0xd2] = { ">i4" }, [0xd3] = { ">i8" },
  [0xd9] = { ">I1", read_bytes }, [0xda] = { ">I2", read_bytes }, [0xdb] = { ">I4", read_bytes },
  [0xdc] = { ">I2", read_list }, [0xdd] = { ">I4", read_list },
  [0xde] = { ">I2", read_map }, [0xdf] = { ">I4", read_map },
}

function read(data, at)
  local lead = byte(data, at)
  at = at + 1
  if lead < 0x80 then
    return lead, at
  elseif lead < 0x90 then
    return read_map(data, at, lead & 0x0f)
  elseif lead < 0xa0 then
    return read_list(data, at, lead & 0x0f)
  elseif lead < 0xc0 then
    return read_bytes(data, at, lead & 0x1f)
  elseif lead >= 0xe0 then
    return lead - 256, at
  elseif lead == 0xc0 then
    return nil, at
  elseif lead == 0xc2 or lead == 0xc3 then
    return lead == 0xc3, at
  elseif lead == 0xd4 and byte(data, at) == NULL_EXTENSION then
    return null, at + 2
  end
  local reader = READERS[lead]
  local value
  value, at = unpack(reader[1], data, at)
  if reader[2] then
    return reader[2](data, at, value)
  end
  return value, at
end

return {
  null = null,
  secrets = secrets,
  mark_list = function(value)
    lists[value] = true
  end,
  is_marked = function(value)
    return lists[value] ~= nil
  end,
  -- What a value is beside its entries, for its copy too.
  copy_mark = function(value, copy)
    lists[copy] = lists[value]
  end,
  encode = encode,
  decode = function(data, at)
    return (read(data, at))
  end,
}

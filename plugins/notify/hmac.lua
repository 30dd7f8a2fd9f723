-- hmac: HMAC with SHA-256, as RFC 2104 has it, in hexadecimal.

local BLOCK_LENGTH = 64

local function bytes(hexadecimal)
  return (hexadecimal:gsub("%x%x", function(pair)
    return string.char(tonumber(pair, 16))
  end))
end

local function mixed(key, with)
  local made = {}
  for index = 1, BLOCK_LENGTH do
    made[index] = string.char((key:byte(index) or 0) ~ with)
  end
  return table.concat(made)
end

return function(key, data)
  if #key > BLOCK_LENGTH then
    key = bytes(hash.sha256(key))
  end
  return hash.sha256(mixed(key, 0x5c) .. bytes(hash.sha256(mixed(key, 0x36) .. data)))
end

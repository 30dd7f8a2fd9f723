-- durations: reads and writes lengths of time as people say them: "90s", "1h30m", "500ms".
--
-- Inputs: raise(code, message, hint). Gives: { seconds(what, value) -> number, text(seconds) -> string }

local raise = ...

local type, tostring, tonumber = type, tostring, tonumber
local gmatch, gsub, format, floor, match = string.gmatch, string.gsub, string.format, math.floor, string.match

local UNITS = { ms = 0.001, s = 1, m = 60, h = 3600, d = 86400 }
local SECONDS_MAXIMUM = 30 * 86400

local function refuse(what, value)
  raise(
    "argument_invalid",
    what .. ' must be seconds as a number, or text such as "90s", "20m", "1h30m", at most 30 days, got ' ..
    (type(value) == "string" and '"' .. value .. '"' or tostring(value))
  )
end

return {
  seconds = function(what, value)
    local seconds = value
    if type(value) == "string" then
      local total, parts = 0, 0
      for number, unit in gmatch(value, "(%d+%.?%d*)(%a+)") do
        if not UNITS[unit] or match(number, "%.$") then
          refuse(what, value)
        end
        total, parts = total + tonumber(number) * UNITS[unit], parts + 1
      end
      if parts == 0 or gsub(value, "%d+%.?%d*%a+", "") ~= "" then
        refuse(what, value)
      end
      seconds = total
    end
    if type(seconds) ~= "number" or not (seconds > 0 and seconds <= SECONDS_MAXIMUM) then
      refuse(what, value)
    end
    return seconds
  end,
  text = function(seconds)
    if type(seconds) ~= "number" or not (seconds >= 0 and seconds <= 1e12) then
      raise("argument_invalid", "time.duration: `seconds` must be a number of at least 0, got " .. tostring(seconds))
    end
    local milliseconds = floor(seconds * 1000 + 0.5)
    local whole, rest = milliseconds // 1000, milliseconds % 1000
    local text = ""
    if whole >= 86400 then
      text = text .. format("%dd", whole // 86400)
    end
    if whole % 86400 >= 3600 then
      text = text .. format("%dh", whole % 86400 // 3600)
    end
    if whole % 3600 >= 60 then
      text = text .. format("%dm", whole % 3600 // 60)
    end
    if whole % 60 > 0 then
      text = text .. format("%ds", whole % 60)
    end
    if rest > 0 then
      text = text .. format("%dms", rest)
    end
    return text ~= "" and text or "0s"
  end,
}

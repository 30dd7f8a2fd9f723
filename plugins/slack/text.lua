-- text: makes texts safe for Slack, and cuts long ones.

local text = {}

-- What Slack cuts off without a word, and how long it advises messages to be.
text.LENGTH_MAXIMUM = 40000
local PART_LENGTH = 4000

-- Counts characters; what is no UTF-8 counts by its bytes.
function text.length(words)
  return utf8.len(words) or #words
end

-- So that nothing in it is a link, a mention of people, or a call of a whole channel.
function text.escape(words)
  return (words:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }))
end

-- Where a part that begins at `from` ends: at a line's end if there is one in its second half, never within a
-- character or an escape.
local function part_end(words, from)
  local last = from + PART_LENGTH - 1
  if last >= #words then
    return #words
  end
  local piece = words:sub(from, last)
  local line = piece:match("^.*()\n")
  if line and line > PART_LENGTH // 2 then
    return from + line - 1
  end
  while last > from and words:byte(last + 1) & 0xC0 == 0x80 do
    last = last - 1
  end
  local escape = words:sub(math.max(from, last - 3), last):match("()&%a*$")
  if escape then
    last = math.max(from, last - 3) + escape - 2
  end
  return last
end

-- Cuts a text into parts of at most 4000 bytes.
function text.split(words)
  local parts, from = {}, 1
  while from <= #words do
    local last = part_end(words, from)
    parts[#parts + 1] = words:sub(from, last)
    from = last + 1
  end
  return parts
end

return text

-- webhook: posts JSON to a URL. It guarantees:
--   * a secret URL, and the key of the signature, are in no error;
--   * each try of one call has the same Idempotency-Key, so a receiver can tell a second try from a second message.

local hmac = require("./hmac")

local CALL = "notify.webhook"

local function without(text, private)
  local first, last = text:find(private, 1, true)
  while first do
    text = text:sub(1, first - 1) .. "the secret URL" .. text:sub(last + 1)
    first, last = text:find(private, 1, true)
  end
  return text
end

return function(arguments)
  local url, private = arguments.url, nil
  if type(url) ~= "string" then
    url = url:reveal()
    private = url
  end
  if not url:find("^https?://[^%s]+$") then
    plugin.fail("argument_invalid", CALL .. ": `url` must begin with https:// or http://")
  end
  plugin.state.sent = (plugin.state.sent or 0) + 1
  local key = hash.sha256(plugin.state.sent .. " " .. time.now() .. " " .. math.random())
  local headers = { ["Idempotency-Key"] = key:sub(1, 32) }
  for name, value in pairs(arguments.headers or {}) do
    headers[name] = value
  end
  local request = {
    url = url, method = "POST", headers = headers, timeout = arguments.timeout, retries = arguments.retries,
    check = false, follow = false,
  }
  if arguments.secret then
    -- What is signed are these bytes, so they are written here; a secret in them has no place, for Lua would have it.
    request.body = json.encode(arguments.json)
    headers["Content-Type"] = "application/json"
    headers[arguments.signature_header] = "sha256=" .. hmac(arguments.secret:reveal(), request.body)
  else
    request.json = arguments.json
  end
  local ok, answer = pcall(http.request, request)
  local place = private and "the secret URL" or url
  if not ok then
    if type(answer) ~= "table" or type(answer.code) ~= "string" or answer.code:sub(1, 5) ~= "http_" then
      error(answer, 0)
    end
    plugin.fail("unreachable", CALL .. ": " .. (private and without(answer.message, private) or answer.message))
  elseif not answer.ok then
    local words = answer.body:gsub("%s+", " "):sub(1, 200)
    plugin.fail("refused", ("%s: %s answered with status %d%s"):format(
      CALL, place, answer.status, words ~= "" and ": " .. (private and without(words, private) or words) or ""
    ))
  end
  return { status = answer.status, body = answer.body }
end

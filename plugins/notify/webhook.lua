-- webhook: posts JSON to a URL. It guarantees:
--   * a secret URL, and the key of the signature, are never read, and so in no error;
--   * each try of one call has the same Idempotency-Key, so a receiver can tell a second try from a second message.

local CALL = "notify.webhook"

return function(arguments)
  local url = arguments.url
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
    headers[arguments.signature_header] = "sha256=" .. hash.hmac(arguments.secret, request.body)
  else
    request.json = arguments.json
  end
  local ok, answer = pcall(http.request, request)
  if not ok and type(answer) == "table" and answer.code == "argument_invalid" then
    plugin.fail("argument_invalid", CALL .. ": " .. answer.message:gsub("^http%.request: ", ""))
  elseif not ok then
    if type(answer) ~= "table" or type(answer.code) ~= "string" or answer.code:sub(1, 5) ~= "http_" then
      error(answer, 0)
    end
    plugin.fail("unreachable", CALL .. ": " .. answer.message)
  elseif not answer.ok then
    local words = answer.body:gsub("%s+", " "):sub(1, 200)
    plugin.fail("refused", ("%s: %s answered with status %d%s"):format(
      CALL, tostring(url), answer.status, words ~= "" and ": " .. words or ""
    ))
  end
  return { status = answer.status, body = answer.body }
end

#!lua flags=allow-oom
-- Publish kinds with their descriptors. Of the descriptors of a kind, the first is the one that was published last.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     how long a kind is kept, descriptors kept per kind, then kind, digest, body, schema of each descriptor
-- Reply    per descriptor: 1 if its schema is missing, else 0
local HEAD, FRESH_SHARE = 24, 4
local kept, most, reply = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for n = 3, #ARGV, 4 do
  local kind, digest, body, schema = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3]
  local stored, at, others, has_schema, fresh = call('HGET', DESCRIPTORS, kind) or '', 1, {}, false, false
  while at <= #stored do
    local whole, time, known, body_size, schema_size = pcall(unpack_text, '>dc8I4I4', stored, at)
    local ends = whole and at + HEAD + body_size + schema_size
    if not whole or ends > #stored + 1 then
      break
    end
    if known == digest then
      has_schema = schema_size > 0
      fresh = at == 1 and now - time < kept / FRESH_SHARE
      schema = has_schema and sub(stored, ends - schema_size, ends - 1) or schema
    elseif #others < most - 1 then
      others[#others + 1] = sub(stored, at, ends - 1)
    end
    at = ends
  end
  if not fresh or (not has_schema and schema ~= '') then
    local first = pack('>dc8I4I4', now, digest, #body, #schema) .. body .. schema
    add_pair('HSET', DESCRIPTORS, kind, first .. table.concat(others))
  end
  add_pair('ZADD', CATALOGUE, digits(now), kind)
  reply[#reply + 1] = schema == '' and 1 or 0
end
write_all()
return reply

#!lua flags=allow-oom
-- Read the layout of the namespace; a new namespace gets the layout of the running version of peerjob. If the user may
-- not run all commands, or the server lacks one, the script writes nothing.
--
-- KEYS     the prefix of all keys of the namespace; the key that holds the layout of the namespace
-- ARGV     the commands to check, in JSON: a list of lists of words
-- Reply    {layout of the namespace, commands that the user may not run, commands that the server lacks}
local denied, missing = {}, {}
for _, words in ipairs(cjson.decode(ARGV[1])) do
  local exists, allowed = pcall(redis.acl_check_cmd, unpack(words))
  local list = not exists and missing or not allowed and denied
  if list then
    list[#list + 1] = words[1] == 'script' and 'script|' .. words[2] or words[1]
  end
end
if #denied + #missing > 0 then
  return {'', denied, missing}
end
local found = call('GET', KEYS[2])
if not found then
  found = call('EXISTS', KEYS[1] .. 'flows') == 1 and FLOWS_LAYOUT or call('EXISTS', KEYS[1] .. 'limited') == 1 and LIMITS_LAYOUT
    or LAYOUT
  call('SET', KEYS[2], found)
end
return {found, denied, missing}

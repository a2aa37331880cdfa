-- The logs of an instance: a list that keeps the latest lines.
local function message_size(line)
  return #line >= 4 and unpack_text('>I4', line) or 0
end

-- Keep lines of an instance that the script appends later.
local function keep_lines(new_logs, id, lines)
  new_logs[id] = new_logs[id] or {}
  for _, line in ipairs(lines) do
    table.insert(new_logs[id], line)
  end
end

-- Plan to append lines to the logs of an instance, and to drop the oldest lines above the limits.
local function append_logs(record, id, lines, max_lines, max_bytes)
  local key = logs_key(id)
  local kept = call('LLEN', key)
  local total, bytes = kept + #lines, kept > 0 and record.log_bytes or 0
  for _, line in ipairs(lines) do
    bytes = bytes + message_size(line)
  end
  local drop, old, fetched = 0, {}, 0
  while drop < total and (total - drop > max_lines or bytes > max_bytes) do
    local line
    if drop < kept then
      if drop >= fetched then
        old = call('LRANGE', key, fetched, fetched + 99)
        fetched = fetched + 100
      end
      line = old[drop % 100 + 1]
    else
      line = lines[drop - kept + 1]
    end
    bytes = bytes - message_size(line)
    drop = drop + 1
  end
  record.log_total, record.log_bytes = record.log_total + #lines, max(bytes, 0)
  return {key = key, drop = min(drop, kept), from = max(drop - kept, 0) + 1, lines = lines}
end

local function write_logs(plan)
  if plan.drop > 0 then
    call('LTRIM', plan.key, plan.drop, -1)
  end
  for first = plan.from, #plan.lines, SLICE do
    call('RPUSH', plan.key, unpack(plan.lines, first, min(first + SLICE - 1, #plan.lines)))
  end
end

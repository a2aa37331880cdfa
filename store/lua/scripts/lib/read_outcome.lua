-- The outcomes in the arguments of commit.lua. Each is id, fence, letters and arguments. The first letter is the action: C
-- complete, T terminate, O time out, X cancel, R retry, Z snooze, H hand back, L release, P report. After the action come
-- s (started), and a letter for each argument: r result, e error, p progress, d delay, n note, l number of log lines and
-- each of them.
local STARTED, RESULT, ERROR, PROGRESS, DELAY, NOTE, LOGS = 115, 114, 101, 112, 100, 110, 108
local FINAL = {C = COMPLETED, T = TERMINATED, O = TIMED_OUT, X = CANCELLED}
local ACTIONS = {C = true, T = true, O = true, X = true, R = true, Z = true, H = true, L = true, P = true}

-- Return the position in ARGV after an outcome, then the action and the arguments of the outcome, by letter.
local function read_outcome(position)
  local letters, fields = ARGV[position + 2], {}
  local action = sub(letters, 1, 1)
  if not ACTIONS[action] and not (threads and action == 'S') then
    error('an outcome has the action "' .. action .. '", one of C, T, O, X, R, Z, H, L and P expected')
  end
  position = position + 3
  for at = 2, #letters do
    local letter = byte(letters, at)
    if letter == STARTED then
      fields[STARTED] = true
    elseif letter == LOGS then
      local lines = {}
      for n = 1, tonumber(ARGV[position]) do
        lines[n] = ARGV[position + n]
      end
      fields[LOGS] = lines
      position = position + #lines + 1
    elseif letter == RESULT or letter == ERROR or letter == NOTE or letter == DELAY or letter == PROGRESS then
      fields[letter] = ARGV[position]
      position = position + 1
    else
      position = threads and threads.read(letter, fields, position)
        or error('an outcome has the letter "' .. string.char(letter) .. '", which is unknown')
    end
  end
  return position, action, fields
end

-- Return whether a report has lines that a processor logged after the end of the run. They are kept unless another node
-- has claimed the instance since.
local function may_log_late(record, incarnation, fence, action, fields)
  local has_lines_only = action == 'P' and fields[LOGS] and not (fields[RESULT] or fields[ERROR] or fields[PROGRESS]
    or fields[STARTED] or fields.thread)
  return has_lines_only and record and record.owner == incarnation and digits(record.fence) == fence
    and record.state >= CANCELLED
end

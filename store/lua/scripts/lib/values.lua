-- The checks of stored values. A script uses and copies only a value that passed them, so one damaged value has no
-- effect on other values. codec.py makes the same checks of a record.
local function is_time(us)
  -- A NaN is no time: comparisons with a NaN are false.
  return us >= 0 and us <= LATEST and us % 1 == 0
end

-- Return whether a text is UTF-8, as Python decodes it. Most texts are ASCII, which one search shows.
local function is_text(text)
  if not find(text, '[\128-\255]') then
    return true
  end
  local CHARACTERS = {
    '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
    '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
    '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]',
  }
  for _, character in ipairs(CHARACTERS) do
    text = string.gsub(text, character, ' ')
  end
  return not find(text, '[\128-\255]')
end

-- The largest byte shows ASCII faster than a search does.
local function is_id(text)
  return #text == ID_SIZE and (max(byte(text, 1, ID_SIZE)) < 128 or is_text(text))
end

-- Return a stored text, or the other one if the stored one is missing or no UTF-8.
local function text_or(text, other)
  return text and is_text(text) and text or other
end

-- Return a stored whole number, or nil if it is missing or no number of the range.
local function whole_number(text)
  local value = text and find(text, '^%d+$') and tonumber(text)
  return value and is_time(value) and value or nil
end

-- Return whether a stored text is a time in microseconds, in the years 1 to 9999.
local function is_moment(text)
  local us = text and find(text, '^%-?%d+$') and tonumber(text)
  return us and us >= -62135596800000000 and us <= 253402300799999999
end

-- Return fields of a hash that coordinates nodes, and whether the key has another type. A hash of another type counts
-- as absent; a script that writes the hash removes the key first.
local function coordination(key, ...)
  local found = redis.pcall('HMGET', key, ...)
  if found.err then
    if not find(found.err, '^WRONGTYPE ') then
      error(found)
    end
    return {}, true
  end
  return found, false
end

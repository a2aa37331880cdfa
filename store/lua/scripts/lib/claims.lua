-- An entry of an `own:` hash: the fence, then a letter for each of s (started), q (suspect) and r (releasing).
-- It is padded beyond hash-max-listpack-value. Otherwise the server would store a hash of up to 512 claims as a list, and
-- search the list for each of them.
local PADDING = string.rep(' ', 65)

local function claim_entry(fence, flags)
  return fence .. flags .. PADDING
end

-- The fence and the letters of an entry.
local function claim_parts(entry_text)
  return match(entry_text, '^(%d+)(%a*)')
end

local function has_flag(entry_text, letter)
  return find(entry_text, letter, 1, true) ~= nil
end

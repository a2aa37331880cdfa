-- An entry of an `own:` hash is the fence, followed by a letter for each of s (started), q (suspect) and r (releasing).
-- The entry is padded beyond hash-max-listpack-value. Otherwise the server would store a hash of up to 512 claims as a
-- list, and search the list for each claim.
local PADDING = string.rep(' ', 65)

local function claim_entry(fence, flags)
  return fence .. flags .. PADDING
end

-- Return the fence and the letters of an entry.
local function claim_parts(entry_text)
  return match(entry_text, '^(%d+)(%a*)')
end

local function has_flag(entry_text, letter)
  return find(entry_text, letter, 1, true) ~= nil
end

-- A binary heap of sources, ordered by the next element of each source: the first source is the best. A sorted list is
-- a valid heap, so a caller can start with one.
local function sink(heap, before)
  local at, size, source = 1, #heap, heap[1]
  while 2 * at <= size do
    local child = 2 * at
    if child < size and before(heap[child + 1], heap[child]) then
      child = child + 1
    end
    if not before(heap[child], source) then
      break
    end
    heap[at] = heap[child]
    at = child
  end
  heap[at] = source
end

local function push(heap, source, before)
  local at = #heap + 1
  while at > 1 do
    local parent = math.floor(at / 2)
    if not before(source, heap[parent]) then
      break
    end
    heap[at] = heap[parent]
    at = parent
  end
  heap[at] = source
end

local function drop_first(heap, before)
  local size = #heap
  heap[1] = heap[size]
  heap[size] = nil
  if size > 2 then
    sink(heap, before)
  end
end

"""What the counters of a key-value store say, against what there is in its queues and indexes."""

from collections import Counter

from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import decode_counts, decode_delayed, decode_owned
from peerjob.store.kv.index.counts import DELAYED, PROCESSING, READY, SET_ASIDE, SLOT, kind_of
from peerjob.store.memory.data import MemoryData


def assert_counted(data: MemoryData, namespace: str) -> None:
    """Hold that the counters say how many keys there are in the queues and indexes that they count."""
    assert miscounted(data, namespace) == {}


def miscounted(data: MemoryData, namespace: str) -> dict[tuple[str, int], tuple[int, int]]:
    """The wrong counters, by kind and place: what they say, and how many keys there are."""
    keys = Keys(namespace)
    counted, held = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    slots = {f"by/{state:d}": slot for state, slot in SLOT.items()}
    for key, entry in data.entries.items():
        what, _, rest = key.removeprefix(keys.root).partition("/")
        if what == "count":
            kind = kind_of(keys, key)
            counted.update({(kind, slot): value for slot, value in enumerate(decode_counts(entry.value))})
        elif what == "ready":
            held[rest.split("/")[0], READY] += 1
        elif what == "due" and not rest.startswith("@"):
            held[keys.kind(decode_delayed(entry.value).kind), DELAYED] += 1
        elif what in ("by", "held"):
            kind, state, _ = rest.split("/")
            held[kind, slots[f"by/{state}"]] += 1
        elif what == "aside":
            held["", SET_ASIDE] += 1
        elif what == "own" and not (claim := decode_owned(entry.value)).releasing:
            held[keys.kind(claim.kind), PROCESSING] += 1
    places = counted.keys() | held.keys()
    return {place: (counted[place], held[place]) for place in places if counted[place] != held[place]}

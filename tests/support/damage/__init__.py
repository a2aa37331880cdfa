"""One damaged stored value beside two nodes at work: all other work goes on.

A case plays a scenario in a namespace of its own, damages one value in the store, and checks the rest of the
namespace. The classes of values come from a scan of the keys, so a new class of key is covered by itself.
"""

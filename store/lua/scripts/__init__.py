"""The commands, one Lua file each; `lib` has their shared definitions."""

"""The commands, one Lua file each; `lib` holds what they share."""

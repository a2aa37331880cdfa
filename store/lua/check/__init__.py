"""Properties of a server: what the store promises on it, and what `jobd check` finds."""

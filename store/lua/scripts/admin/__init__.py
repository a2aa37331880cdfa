"""Scripts of retention, health, audit and activity."""

"""Scripts of schedules and fires."""

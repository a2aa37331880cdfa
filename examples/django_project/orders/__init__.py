"""Orders, and the tasks that pack them."""

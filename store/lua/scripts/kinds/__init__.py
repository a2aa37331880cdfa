"""Scripts of the catalogue of kinds."""

"""Parts of scripts, put in front of those whose header names them."""

"""The commands: `jobd`."""

"""The front door: the `edgerl` command, and the demo that runs all programs at once."""

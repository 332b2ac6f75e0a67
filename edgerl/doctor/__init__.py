"""`edgerl doctor`: can this machine do its part? Read `__main__.py` first."""

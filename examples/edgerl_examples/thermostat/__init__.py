"""A sensor and a relay as an EdgeRL board: keep a room at its set point. Read `environment.py` first."""

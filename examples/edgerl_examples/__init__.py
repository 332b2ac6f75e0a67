"""Environments for trying EdgeRL out, and for copying from: each is one module with one gymnasium.Env."""

"""Environments as a worker holds them, for tests of what is around them."""

from collections.abc import Sequence
from typing import Any

import gymnasium

from edge_actor.environment_copy import EnvironmentCopy


def copies_of(environments: Sequence[gymnasium.Env[Any, Any]]) -> list[EnvironmentCopy]:
    """Each of these as a copy; one that has to be made anew comes back as it is."""
    return [EnvironmentCopy(lambda made=environment: made) for environment in environments]

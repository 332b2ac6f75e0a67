"""A command as an audit has it: everything that was said, and of a policy its hash."""

import hashlib

import msgspec

from fleet_protocol.messages import Bench, Command


def words_of(command: Command) -> str:
    """Return a command as JSON; the policy in it by its size and SHA-256."""
    fields = msgspec.to_builtins(command)
    if isinstance(command, Bench):
        fields["model"] = {"bytes": len(command.model), "sha256": hashlib.sha256(command.model).hexdigest()}
    return msgspec.json.encode(fields).decode()

"""The hardened broker: mosquitto's configuration, and who may say and hear what, by the name in a certificate."""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fleet_protocol.topics import PROTOCOL_VERSION

ROLES: Final = ("learner", "manager", "monitor")
"""Names with rights of their own: no board may have one of them."""

_MOSQUITTO_USER: Final = "mosquitto"
"""What mosquitto becomes when root starts it, before it reads its files."""

# The limits are our protocol's; mosquitto's defaults lose messages of a slow subscriber and, from 2.1, large policies.
# What must last is published again by its owner; persistence only spares a new board the wait for a learner.
_MOSQUITTO_CONF: Final = """\
# Made by `edgerl broker init`. Every client shows a certificate of the fleet's CA; its name is who it is.
listener {port}
cafile {folder}/ca.crt
certfile {folder}/server.crt
keyfile {folder}/server.key
crlfile {folder}/revoked.crl
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
# Else a board could take another's client id, and throw it out.
use_username_as_clientid true
allow_anonymous false
acl_file {folder}/acl

set_tcp_nodelay true
max_packet_size 8388608
max_inflight_messages 100
max_queued_messages 0
max_queued_bytes 268435456
persistent_client_expiration 7d
persistence true
persistence_location {folder}/data/
autosave_interval 60

pid_file {folder}/mosquitto.pid
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
connection_messages true
"""

# Mosquitto looks at a user's own rules first, and then at the patterns, which are every user's: hence the denials.
_ROLE_RULES: Final = """\
user learner
topic deny {root}/board/learner/#
topic readwrite {root}/run
topic readwrite {root}/learner
topic readwrite {root}/policy/#
topic read {root}/board/+/status
topic read {root}/board/+/up/#
topic write {root}/board/+/down/ack
topic write {root}/board/+/down/command
topic write {root}/board/+/down/candidate

user manager
topic deny {root}/board/manager/#
topic read {root}/board/+/status
topic read {root}/board/+/up/telemetry
topic read {root}/board/+/up/log
topic read {root}/board/+/up/reply
topic readwrite {root}/board/+/down/command
topic readwrite {root}/board/+/down/candidate
topic readwrite {root}/board/+/down/desired

user monitor
topic deny {root}/board/monitor/#
topic read {root}/board/+/status
topic read {root}/board/+/up/telemetry
topic read {root}/board/+/up/log

# Every board, by its own name; and what everybody with a certificate may hear.
pattern write {root}/board/%u/up/#
pattern readwrite {root}/board/%u/status
pattern read {root}/board/%u/down/#
pattern read {root}/run
pattern read {root}/policy/#
pattern read edgerl/+/{fleet}/learner
"""


def mosquitto_conf(folder: Path, *, port: int) -> str:
    """The whole configuration of a broker whose files lie in `folder`."""
    return _MOSQUITTO_CONF.format(folder=folder, port=port)


def access_rules(fleet: str, *, banned: Sequence[str]) -> str:
    """Mosquitto's ACL file.

    Args:
        fleet: The fleet's name.
        banned: Names that are revoked: the list of revocations keeps them from coming in, and this silences those
            that are in already.
    """
    root = f"edgerl/{PROTOCOL_VERSION}/{fleet}"
    bans = "".join(f"user {name}\ntopic deny #\n\n" for name in banned)  # a denial goes before all permissions
    return bans + _ROLE_RULES.format(root=root, fleet=fleet)


def give_to_mosquitto(folder: Path) -> None:
    """Started by root, mosquitto is no longer root when it reads its files."""
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(_MOSQUITTO_USER)
    except KeyError:
        return
    for path in (folder, *folder.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)

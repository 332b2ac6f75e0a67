"""What whoever commands a fleet decides."""

from msgspec import Struct


class ManagerSettings(Struct, frozen=True, kw_only=True):
    """Table `[manager]`; every field can be an `EDGERL_MANAGER_*` variable."""

    broker: str = "127.0.0.1:1883"
    """Address of the MQTT broker, HOST or HOST:PORT."""
    ca: str = ""
    """File of the fleet's CA (PEM); with `cert` and `key` the broker is spoken to over TLS."""
    cert: str = ""
    """File of this program's certificate (PEM)."""
    key: str = ""
    """File of its private key (PEM)."""
    insecure: bool = False
    """Speak to a broker on another machine in plain text, where anybody between can read and change it."""
    fleet: str = "demo"
    """Name of the fleet."""
    signing_key: str = ""
    """File of the private key that signs commands; empty = unsigned, on loopback."""
    keyring: str = ""
    """File of the keyring in which the fleet's root key names that key."""
    audit: str = "edgerl-audit.db"
    """SQLite file that every command is noted in before it is sent."""

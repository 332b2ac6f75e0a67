"""The key that a learner signs with: found and checked before a run begins, so that no board must refuse it."""

from typing import Final

from cloud_learner.config import LearnerSettings
from fleet_protocol import signer
from fleet_protocol.signing import Signer

_SIGNED_KINDS: Final = ("run", "policy", "command")


def load_signer(settings: LearnerSettings) -> Signer | None:
    """The key and keyring that were set; None without any.

    Raises:
        ProgramError: Only one of both is set, a file cannot be read, or boards would refuse what the key signs.
    """
    return signer.load_signer(settings, kinds=_SIGNED_KINDS, role="learner")

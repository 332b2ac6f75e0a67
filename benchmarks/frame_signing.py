"""What does it cost to sign a push, and to check it? With real keys, beside hashing alone, which no frame is without.

Sizes: a 64x64 policy, and Nature-CNN in int8 (1.7 MB). Checking is all that a board does before it parses the policy:
decoding the frame, its signature, its floors, the hash of its body. The keyring is known, as from the second push on.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.report import Claim, Row, finish, parse_arguments
from fleet_manager.key_folder import KeyFolder
from fleet_protocol.keys import PrivateKey, load_public
from fleet_protocol.signing import Signer, open_frame, seal_frame
from fleet_protocol.trust import Trust

SIZES: Final = (8_576, 1_700_000)


def main() -> None:
    """Measure both sizes."""
    arguments = parse_arguments(__doc__)
    repeats = 100 if arguments.quick else 1000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        KeyFolder(path).init(fleet="f", days=1.0)
        signer = Signer(PrivateKey.load(path / "learner.key"), (path / "keyring").read_bytes())
        trust = Trust(load_public(path / "root.pub"), fleet="f")
        rows = [_row(size, signer, trust, repeats) for size in SIZES]
    large = rows[-1]
    claims = [
        Claim.at_most(f"signing and checking a push of 1.7 MB, {name}, ms per MB", _both_per_mb(large, quantile), 5.0)
        for name, quantile in (("medians", "p50"), ("99th percentiles", "p99"))
    ]
    finish(arguments, rows, claims, packages=("cryptography", "msgpack"))


def _both_per_mb(row: Row, quantile: str) -> float:
    return (float(row[f"sign_ms_{quantile}"] or 0) + float(row[f"check_ms_{quantile}"] or 0)) / (SIZES[-1] / 1e6)


def _row(size: int, signer: Signer, trust: Trust, repeats: int) -> Row:
    body = os.urandom(size)

    def sign(key: Signer | None = signer) -> bytes:
        return seal_frame(body, kind="policy", version=1, run_id="r", signer=key)

    signed, unsigned = sign(), sign(None)
    open_frame(signed, kind="policy", trust=trust)
    checked = _milliseconds(lambda: open_frame(signed, kind="policy", trust=trust), repeats)
    signing = _milliseconds(sign, repeats)
    return {
        "bytes": size,
        "frame_adds_bytes": len(signed) - len(unsigned),
        "sign_ms_p50": float(np.percentile(signing, 50)),
        "sign_ms_p99": float(np.percentile(signing, 99)),
        "check_ms_p50": float(np.percentile(checked, 50)),
        "check_ms_p99": float(np.percentile(checked, 99)),
        "hash_alone_ms_p50": float(np.percentile(_milliseconds(lambda: hashlib.sha256(body).digest(), repeats), 50)),
    }


def _milliseconds(work: Callable[[], object], repeats: int) -> list[float]:
    times: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1e3)
    return times


if __name__ == "__main__":
    main()

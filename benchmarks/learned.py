"""Checkpoints of policies that have learned their task, made once and kept."""

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.programs import program
from benchmarks.time_to_threshold import EXAMPLES, TASKS
from edgerl.broker import start_broker

FOLDER: Final = Path("benchmark-results/learned")
TRIES: Final = 4
"""A run that has not reached its target within its limit is begun anew, with another seed."""
_EXTRA_S: Final = 60.0


def learned(name: str, folder: Path = FOLDER) -> Path:
    """The state folder of a task that a fleet of two boards has learned, now or before.

    Args:
        name: One of `TASKS`.
        folder: Where checkpoints are kept.

    Raises:
        RuntimeError: It was not learned.
    """
    kept = folder / name
    if not (kept / "learned").exists():
        for seed in range(1, TRIES + 1):
            if _learn(kept / f"seed-{seed}", name, seed=seed):
                (kept / f"seed-{seed}").rename(kept / "state")
                (kept / "learned").touch()
                break
        else:
            raise RuntimeError(f"{name} was not learned in {TRIES} tries: see {kept}/seed-*/learner.log")
    return kept / "state"


def _learn(state: Path, name: str, *, seed: int) -> bool:
    task = TASKS[name]
    state.mkdir(parents=True, exist_ok=True)
    settings = state / "edgerl.toml"
    text = (
        (EXAMPLES / task.settings).read_text(encoding="utf-8") if task.settings else f'[learner]\nenv_id = "{name}"\n'
    )
    settings.write_text(text + task.learner_toml, encoding="utf-8")
    with ExitStack() as stack:
        broker = stack.enter_context(start_broker(None))
        where = ("--broker", str(broker.address), "--config", str(settings))
        for board in ("b1", "b2"):
            stack.enter_context(program("edge_actor", *where, "--board", board, "--state", ""))
        goal = ("--target-return", str(task.target), "--time-limit-s", str(task.limit_s))
        flags = (*where, *goal, "--evaluation-episodes", "0", "--state", str(state), "--seed", str(seed))
        with program("cloud_learner", *flags, log=state / "learner.log") as learner:
            learner.wait(task.limit_s + _EXTRA_S)
        return learner.returncode == 0

"""How a program of ours ends: one number a cause, explained by `edgerl help CODE`."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every EdgeRL program. Numbers are never reused."""

    OK = 0
    BUG = 1
    USAGE = 2
    CONFIG = 3
    NO_BROKER = 4
    PORT_IN_USE = 5
    ADDRESS_REFUSED = 6
    TARGET_NOT_REACHED = 7
    ENVIRONMENT_UNKNOWN = 8
    ENVIRONMENT_REFUSED = 9
    SPACE_UNSUPPORTED = 10
    SPACES_DIFFER = 11
    PROTOCOL_MISMATCH = 12
    DEPENDENCY_MISSING = 13
    STATE_UNUSABLE = 14
    ENVIRONMENT_FAILED = 15
    PROCESS_DIED = 17
    MACHINE_UNFIT = 18
    CERTIFICATE_REFUSED = 19
    ENROLMENT_REFUSED = 20
    NO_DEPOT = 21
    COMMAND_FAILED = 22
    AUDIT_BROKEN = 23
    SCENARIO_FAILED = 24
    DIVERGED = 25
    INTERRUPTED = 130


EXPLANATIONS: dict[ExitCode, str] = {
    ExitCode.OK: "It did what it was asked to do.",
    ExitCode.BUG: "A mistake of ours: the traceback says where. Please report it.",
    ExitCode.USAGE: "A flag or argument is wrong. `--help` lists what each command takes.",
    ExitCode.CONFIG: "The configuration (file, EDGERL_* variable or flag) has an unknown key or a wrong value. "
    "The message names it; `edgerl config show` prints what is in force.",
    ExitCode.NO_BROKER: "No MQTT broker answered. Start one with `edgerl broker run`, or check --broker HOST:PORT.",
    ExitCode.PORT_IN_USE: "The port is taken by another program. Choose another with --port, or end that program.",
    ExitCode.ADDRESS_REFUSED: "Without certificates only loopback addresses (127.0.0.0/8, ::1, localhost) are allowed: "
    "anybody on the network could give your boards a policy. Set ca, cert and key; `edgerl broker init` makes them.",
    ExitCode.TARGET_NOT_REACHED: "The run ended before the mean return of 100 episodes reached the target. The report "
    "was written. Try a longer --time-limit, or other settings of the learner.",
    ExitCode.ENVIRONMENT_UNKNOWN: "No such environment on the board. Check --env for typing, and install the package "
    "that registers it on each board.",
    ExitCode.ENVIRONMENT_REFUSED: "The board's own configuration does not allow this environment's code. Add its "
    "module to `allowed_environments` on the board (--allow-env).",
    ExitCode.SPACE_UNSUPPORTED: "The environment's observation or action space is of a kind that policies cannot be "
    "made for. Flatten or wrap it: vectors, images and Dicts of vectors to observe; Discrete, MultiDiscrete, "
    "MultiBinary or Box to act.",
    ExitCode.SPACES_DIFFER: "A board's spaces differ from those that the run began with. All boards of a run need the "
    "same environment, in the same version.",
    ExitCode.PROTOCOL_MISMATCH: "Learner and board speak different protocol versions. Install the same EdgeRL on both.",
    ExitCode.DEPENDENCY_MISSING: "A package or program is missing. The message says which extra installs it.",
    ExitCode.STATE_UNUSABLE: "The state folder cannot be read or written, or holds something else. Choose another "
    "with --state, or repair it.",
    ExitCode.ENVIRONMENT_FAILED: "The environment raised an error when it was made or stepped. The message is its own.",
    ExitCode.PROCESS_DIED: "A process that the command needs has died. Its last lines say why.",
    ExitCode.MACHINE_UNFIT: "This machine cannot do what was asked of it: too slow for the rate, no usable GPU, a "
    "clock that is wrong. `edgerl doctor` says which, and what to do.",
    ExitCode.CERTIFICATE_REFUSED: "Broker and program do not trust each other: a certificate is expired, revoked, of "
    "another CA, or for another host, or a clock is wrong. The message says which, and what to do.",
    ExitCode.ENROLMENT_REFUSED: "The depot gave this board no certificate: the token is wrong, used or expired, or the "
    "board's certificate is revoked. The message says which; the operator makes a new token with "
    "`edgerl enroll BOARD --token`.",
    ExitCode.NO_DEPOT: "No depot answered. Start one with `edgerl depot run` on the operator's machine, or check "
    "--depot https://HOST:PORT.",
    ExitCode.COMMAND_FAILED: "The board is not there, did not answer in time, or could not do what it was told. The "
    "message says which.",
    ExitCode.AUDIT_BROKEN: "Entries of an audit log were changed, removed or reordered. The message says which.",
    ExitCode.SCENARIO_FAILED: "The fleet has not survived a fault of `edgerl chaos`, or a scenario could not run. The "
    "table names it, with the reason.",
    ExitCode.DIVERGED: "Learning has run away: a loss or a weight is not finite. The message names it. The last "
    "checkpoint may be from before: go on from it with a smaller learning_rate or max_grad_norm.",
    ExitCode.INTERRUPTED: "Stopped by Ctrl-C. What could be saved was saved.",
}


class ProgramError(Exception):
    """Something a person can put right: printed as one line, without a traceback, with its exit code."""

    def __init__(self, exit_code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code

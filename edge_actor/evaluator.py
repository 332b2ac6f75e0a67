"""A worker's answer to an evaluation command: greedy episodes, or why there are none."""

from collections.abc import Callable

from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.evaluation import play_greedy_episodes
from edge_actor.policy import Policy
from edge_actor.policy_file import BadPolicyFile
from edge_actor.sampling import Sampler
from edge_actor.step_clock import StepClock
from edge_actor.worker_messages import Evaluated, EvaluatePolicy, StartRun
from fleet_protocol.commands import EvaluationResult
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Problem


def evaluate(
    command: EvaluatePolicy,
    start: StartRun,
    *,
    make_copies: Callable[[], list[EnvironmentCopy]],
    make_sampler: Callable[[Policy, int], Sampler],
    clock: StepClock,
) -> Evaluated:
    """Play what was asked for, in environments of its own.

    Args:
        command: Which policy, and how many episodes.
        start: What the worker plays otherwise.
        make_copies: Makes the environments.
        make_sampler: Makes a sampler for a policy and a window of so many steps.
        clock: Watches the environments' code.
    """
    if start.run.control_hz:
        problem = Problem(
            code=ExitCode.ENVIRONMENT_REFUSED,
            sentence="a run with control_hz acts on one environment, which is in use: evaluate in another run",
        )
        return Evaluated(counter=command.counter, problem=problem)
    try:
        policy = Policy(command.model, copies=start.copies)
        policy.warm_up()
        copies = make_copies()
        returns, lengths = play_greedy_episodes(
            copies, policy, make_sampler(policy, 1), episodes=command.episodes, seed=command.seed, clock=clock
        )
        for copy in copies:
            copy.close()
    except BadPolicyFile as error:
        return Evaluated(counter=command.counter, problem=Problem(code=ExitCode.BUG, sentence=str(error)))
    except ProgramError as error:
        return Evaluated(counter=command.counter, problem=Problem(code=error.exit_code, sentence=str(error)))
    result = EvaluationResult(policy_version=command.version, returns=returns, lengths=lengths)
    return Evaluated(counter=command.counter, result=result)

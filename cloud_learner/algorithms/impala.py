"""IMPALA's actor-critic: V-trace targets and policy gradient (https://arxiv.org/abs/1802.01561).

With several passes over a batch the policy loss is a clipped surrogate around the policy that they began with; the
V-trace ratios are computed once, before them. With one pass it is IMPALA's own loss; advantages are
normalised over the batch in both cases.
"""

import math
from typing import Any

import torch
from torch import Tensor

from cloud_learner.algorithms.algorithm import Diverged, UpdateReport
from cloud_learner.batching import Batch
from cloud_learner.config import LearnerSettings
from cloud_learner.losses import clipped_surrogate_loss, value_loss
from cloud_learner.networks import ActorCritic, PolicyOutput
from cloud_learner.normalisation import RewardScaler
from compressor import InvalidPolicyError, PolicyGraph
from compressor.distillation import Lesson
from corrector import (
    VTraceReturns,
    clip_share,
    effective_sample_size,
    explained_variance,
    vtrace_from_importance_weights,
)


class Impala:
    """Networks, optimiser, and the update.

    Args:
        network: Policy and value, on its device.
        settings: Step size, costs, clips.
    """

    def __init__(self, network: ActorCritic, settings: LearnerSettings) -> None:
        self._network = network
        self._settings = settings
        self._reward_scaler = RewardScaler(settings.gamma).to(next(network.parameters()).device)
        self._optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5)
        self._newest: tuple[Batch, PolicyOutput] | None = None

    def update(self, batch: Batch) -> UpdateReport:
        """Correct the batch once, then descend several times; errors as `Algorithm.update`."""
        settings, network = self._settings, self._network
        network.normaliser.update(batch.observations)
        self._reward_scaler.update(batch.rewards, batch.terminated | batch.truncated)
        output: PolicyOutput = network(batch.observations, batch.initial_state, batch.is_first)
        before = output.detach()
        self._newest = batch, before
        log_prob = network.action_head.log_prob(before.params[:-1], batch.actions)
        returns = self._correct(batch, log_prob, before)
        advantages = returns.pg_advantages
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        first: tuple[Tensor, Tensor, Tensor] | None = None
        for _ in range(settings.passes):
            if first is not None:
                output = network(batch.observations[:-1], batch.initial_state, batch.is_first[:-1])
            losses = self._losses(batch, output, log_prob=log_prob, advantages=advantages, vs=returns.vs)
            first = first or losses
            self._descend(losses[0] + settings.value_cost * losses[1] - settings.entropy_cost * losses[2])
        assert first is not None  # noqa: S101 - there is at least one pass
        report = self._report(batch, before=before, log_prob=log_prob, returns=returns, losses=first)
        if not math.isfinite(report.policy_loss + report.value_loss):
            raise Diverged(f"the policy loss is {report.policy_loss:g}, the value loss {report.value_loss:g}")
        return report

    def policy_graph(self, *, with_value: bool = False) -> PolicyGraph:
        """A copy of the policy as it is now, with its value or without; errors as `Algorithm.policy_graph`."""
        try:
            return self._network.to_graph(with_value=with_value)
        except InvalidPolicyError as error:
            raise Diverged(str(error)) from error

    def lesson(self) -> Lesson:
        """What the newest batch teaches a student.

        Raises:
            ValueError: There was no batch.
        """
        if self._newest is None:
            raise ValueError("a lesson comes from an update: call update first")
        batch, said = self._newest
        taught = {**self._network.action_head.outputs(said.params), "value": said.values.unsqueeze(-1)}
        if said.states is not None:
            taught["state_out"] = said.states
        return Lesson(batch.observations, taught, batch.initial_state, batch.is_first)

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser and reward scale."""
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "reward_scaler": self._reward_scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._reward_scaler.load_state_dict(state["reward_scaler"])

    def _losses(
        self, batch: Batch, output: PolicyOutput, *, log_prob: Tensor, advantages: Tensor, vs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Policy loss, value loss and entropy; an output of T + 1 rows counts up to T."""
        head, steps = self._network.action_head, len(batch.rewards)
        params = output.params[:steps]
        log_ratios = head.log_prob(params, batch.actions) - log_prob
        return (
            clipped_surrogate_loss(log_ratios, advantages, self._settings.surrogate_clip),
            value_loss(output.values[:steps], vs),
            head.entropy(params).mean(),
        )

    @torch.no_grad()
    def _correct(self, batch: Batch, log_prob: Tensor, before: PolicyOutput) -> VTraceReturns:
        settings, values = self._settings, before.values
        final_values = torch.zeros_like(batch.rewards)
        if batch.final_index.numel():
            # What the memory held after the step that was cut, before the next row's episode zeroed it.
            state = None if before.states is None else before.states.flatten(0, 1)[batch.final_index]
            finals = self._network(batch.final_observations.unsqueeze(0), state)
            final_values.view(-1)[batch.final_index] = finals.values[0]
        return vtrace_from_importance_weights(
            log_prob - batch.behavior_log_prob,
            settings.gamma * batch.terminated.logical_not(),
            self._reward_scaler(batch.rewards),
            values[:-1],
            values[-1],
            truncated=batch.truncated,
            final_values=final_values,
            lambda_=settings.lambda_,
            clip_rho_threshold=settings.clip_rho_threshold,
            clip_c_threshold=settings.clip_c_threshold,
            clip_pg_rho_threshold=settings.clip_rho_threshold,
        )

    def _descend(self, loss: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.max_grad_norm)
        self._optimizer.step()

    def _report(
        self,
        batch: Batch,
        *,
        before: PolicyOutput,
        log_prob: Tensor,
        returns: VTraceReturns,
        losses: tuple[Tensor, Tensor, Tensor],
    ) -> UpdateReport:
        params, values = before.params[:-1], before.values[:-1]
        log_rhos = log_prob - batch.behavior_log_prob
        policy, value, entropy = (float(loss.detach()) for loss in losses)
        head = self._network.action_head
        return UpdateReport(
            policy_loss=policy,
            value_loss=value,
            entropy=entropy,
            kl=float(head.divergence(batch.behavior_params, params)),
            effective_sample_size=float(effective_sample_size(log_rhos)),
            clip_share=float(clip_share(log_rhos, self._settings.clip_rho_threshold)),
            explained_variance=float(explained_variance(values, returns.vs)),
            largest_logit=head.largest_logit(params),
        )

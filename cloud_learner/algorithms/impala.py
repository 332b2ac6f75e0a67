"""IMPALA's actor-critic: V-trace targets and policy gradient (https://arxiv.org/abs/1802.01561).

With several passes over a batch the policy loss is a clipped surrogate around the policy that they began with; the
V-trace ratios are computed once, before them. With one pass it is IMPALA's own loss; advantages are
normalised over the batch in both cases.
"""

from typing import Any

import torch
from torch import Tensor

from cloud_learner.algorithms.algorithm import UpdateReport
from cloud_learner.batching import Batch
from cloud_learner.config import LearnerSettings
from cloud_learner.losses import clipped_surrogate_loss, value_loss
from cloud_learner.networks import ActorCritic, PolicyOutput
from cloud_learner.normalisation import RewardScaler
from compressor.policy_graph import PolicyGraph
from corrector import (
    VTraceReturns,
    clip_share,
    effective_sample_size,
    explained_variance,
    kl_divergence_categorical,
    kl_divergence_gaussian,
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

    def update(self, batch: Batch) -> UpdateReport:
        """Correct the batch once, then descend several times."""
        settings, network = self._settings, self._network
        network.normaliser.update(batch.observations)
        self._reward_scaler.update(batch.rewards, batch.terminated | batch.truncated)
        with torch.no_grad():
            before = network(batch.observations)
            log_prob = network.log_prob(before.params[:-1], batch.actions)
            returns = self._correct(batch, log_prob, before.values)
        advantages = returns.pg_advantages
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        first: tuple[Tensor, Tensor, Tensor] | None = None
        for _ in range(settings.passes):
            output = network(batch.observations[:-1])
            log_ratios = network.log_prob(output.params, batch.actions) - log_prob
            losses = (
                clipped_surrogate_loss(log_ratios, advantages, settings.surrogate_clip),
                value_loss(output.values, returns.vs),
                network.entropy(output.params).mean(),
            )
            first = first or losses
            self._descend(losses[0] + settings.value_cost * losses[1] - settings.entropy_cost * losses[2])
        assert first is not None  # noqa: S101 - there is at least one pass
        return self._report(batch, before=before, log_prob=log_prob, returns=returns, losses=first)

    def policy_graph(self) -> PolicyGraph:
        """A copy of the policy as it is now."""
        return self._network.to_graph()

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

    def _correct(self, batch: Batch, log_prob: Tensor, values: Tensor) -> VTraceReturns:
        settings = self._settings
        final_values = torch.zeros_like(batch.rewards)
        if batch.final_index.numel():
            final_values.view(-1)[batch.final_index] = self._network(batch.final_observations).values
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
        discrete = self._network.head == "categorical"
        return UpdateReport(
            policy_loss=policy,
            value_loss=value,
            entropy=entropy,
            kl=float(_kl(batch.behavior_params, params, discrete=discrete)),
            effective_sample_size=float(effective_sample_size(log_rhos)),
            clip_share=float(clip_share(log_rhos, self._settings.clip_rho_threshold)),
            explained_variance=float(explained_variance(values, returns.vs)),
            largest_logit=float((params - params[..., :1]).abs().max()) if discrete else 0.0,
        )


def _kl(behavior: Tensor, target: Tensor, *, discrete: bool) -> Tensor:
    if discrete:
        return kl_divergence_categorical(behavior, target)
    return kl_divergence_gaussian(*behavior.chunk(2, dim=-1), *target.chunk(2, dim=-1))

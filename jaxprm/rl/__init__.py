"""Reinforcement learning from step rewards."""

from jaxprm.rl.advantages import group_normalized, group_process_normalized, leave_one_out, step_leave_one_out, step_to_token
from jaxprm.rl.credit import min_form, min_form_rewards, outcome, return_to_go, strict_min_form, sum_form
from jaxprm.rl.loop import Reinforcer, ReinforceConfig, log_probs_of, reinforce, step_advantages
from jaxprm.rl.policy_loss import clipped_policy_gradient, kl_estimate

__all__ = ["ReinforceConfig", "Reinforcer", "clipped_policy_gradient", "group_normalized", "group_process_normalized",
           "kl_estimate", "leave_one_out", "log_probs_of", "min_form", "min_form_rewards", "outcome", "reinforce",
           "return_to_go", "step_advantages", "step_leave_one_out", "step_to_token", "strict_min_form", "sum_form"]

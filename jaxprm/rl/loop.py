"""Policy-gradient training with rewards per step: sample, score, assign credit, update.

Step rewards come from `score_steps`, the function that also evaluates, scores offline and is trained; sampling is that of
`jaxprm.generation`. An update is two compiled programs with the verifier of the task between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from jaxprm.errors import InputError
from jaxprm.generation.policy import pad_prompts
from jaxprm.generation.rows import SolutionRows, solution_rows
from jaxprm.generation.sampler import Samples, SamplingConfig, sample
from jaxprm.models.parameters import with_parameters
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel, forward
from jaxprm.objectives.language_model import token_log_probs
from jaxprm.objectives.loss import Loss
from jaxprm.progress import Progress, SilentProgress
from jaxprm.records import Problem
from jaxprm.rl.advantages import group_normalized, group_process_normalized, step_leave_one_out, step_to_token
from jaxprm.rl.credit import min_form_rewards, return_to_go
from jaxprm.rl.policy_loss import clipped_policy_gradient
from jaxprm.scoring.steps import score_steps
from jaxprm.steps.format import StepEncoder
from jaxprm.training.checkpoints import Checkpoints
from jaxprm.training.loop import TrainState, initial_state
from jaxprm.training.metrics_log import MetricsLog
from jaxprm.training.optimizer import OptimizerConfig

Credit = Literal["outcome", "sum_form", "min_form"]


@dataclasses.dataclass(frozen=True)
class ReinforceConfig:
    """Group-relative policy gradient (GRPO, Shao et al. 2024) with rewards from a verifier or a process reward model.

    Attributes:
      credit: where the advantage of a step comes from.
        "outcome": the verified answer, normalised within the group; every token of a solution gets the same (GRPO).
        "sum_form": step rewards normalised within the group and summed from each step on (GRPO with process supervision,
        DeepSeekMath section 4.1.3). More good steps are worth more: it can be hacked by length.
        "min_form": the worst step is what a solution is worth (PURE, Cheng et al. 2025), with its leave-one-out baseline.
      updates: policy updates, one per batch of samples (on-policy).
      problems, samples: problems per update and samples per problem (the group).
      limit, max_steps: most tokens and steps of a sample; one that does not end within both has failed: all its step
        rewards are -1 and its outcome is 0.
      temperature: of sampling; the gradient is that of the tempered policy.
      min_temperature: of the soft minimum in "min_form".
      kl_coefficient: weight of the k3 estimate of KL(policy || starting policy) in the loss, per token.
      clip: of the probability ratio.
      checkpoint_every: updates between checkpoints.

    A step reward is ``2 * score - 1``, in [-1, 1].
    """

    credit: Credit = "min_form"
    updates: int = 40
    problems: int = 32
    samples: int = 8
    limit: int = 72
    max_steps: int = 12
    temperature: float = 1.0
    min_temperature: float = 0.1
    kl_coefficient: float = 0.02
    clip: float = 0.2
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, warmup=0.1, weight_decay=0.0)
    checkpoint_every: int = 20

    def __post_init__(self):
        for field in ("updates", "problems", "limit", "max_steps", "checkpoint_every"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if self.samples < 2:
            raise InputError("must be at least 2: an advantage compares the samples of a problem", field="samples",
                             value=self.samples)
        if self.credit not in ("outcome", "sum_form", "min_form"):
            raise InputError("must be one of outcome, sum_form, min_form", field="credit", value=self.credit)
        for field in ("temperature", "min_temperature", "clip"):
            if getattr(self, field) <= 0:
                raise InputError("must be positive", field=field, value=getattr(self, field))
        if self.kl_coefficient < 0:
            raise InputError("must not be negative", field="kl_coefficient", value=self.kl_coefficient)


def step_advantages(config: ReinforceConfig, step_rewards: Float[Array, "R S"], mask: Bool[Array, "R S"],
                    outcomes: Float[Array, " R"]) -> Float[Array, "R S"]:
    """Advantage of every step; rows are groups of ``config.samples`` samples of one problem. float32, 0 outside the mask."""
    if config.credit == "outcome":
        return jnp.where(mask, group_normalized(outcomes, config.samples)[:, None], 0.0)
    if config.credit == "sum_form":
        return group_process_normalized(step_rewards, mask, config.samples)
    weighted = min_form_rewards(step_rewards, mask, temperature=config.min_temperature)
    return return_to_go(step_leave_one_out(weighted, mask, config.samples), mask)


def log_probs_of(model: LanguageModel, rows: SolutionRows, temperature: float) -> Float[Array, "R T"]:
    """Log-probability (nats) of each generated token under the model, at the token's own place; 0 elsewhere."""
    hidden = forward(model.backbone, rows.tokens, rows.batch.positions, rows.batch.segment_ids)
    ahead = token_log_probs(hidden[:, :-1], model.output_matrix().astype(hidden.dtype), rows.tokens[:, 1:], temperature,
                            softcap=model.config.logit_softcap)
    return jnp.where(rows.generated, jnp.pad(ahead, ((0, 0), (1, 0))), 0.0)


@dataclasses.dataclass(frozen=True)
class Reinforcer:
    """The two compiled halves of an update, for one encoder and config."""

    config: ReinforceConfig
    encoder: StepEncoder
    optimizer: optax.GradientTransformation

    def rows(self, prompts, lengths, samples: Samples) -> SolutionRows:
        """Samples as rows for scoring and for the gradient."""
        return solution_rows(prompts, lengths, samples, separator_id=self.encoder.separator_id,
                             end_id=self.encoder.end_id, steps=self.config.max_steps, read_back=self.encoder.read_back)

    def rollout(self, policy: LanguageModel, key: jax.Array, prompts, lengths) -> Samples:
        """``config.samples`` samples per prompt."""
        return sample(policy, key, prompts, lengths, width=self.config.samples, limit=self.config.limit,
                      config=SamplingConfig(self.config.temperature), end_id=self.encoder.end_id)

    def update(self, state: TrainState, policy: LanguageModel, reference: LanguageModel, reward_model: RewardModel,
               prompts, lengths, samples: Samples, outcomes: Float[Array, " R"]) -> tuple[TrainState, dict[str, Array]]:
        """One gradient step. ``policy`` gives the architecture, its parameters come from the state."""
        config = self.config
        rows = self.rows(prompts, lengths, samples)
        mask = rows.batch.step_mask
        scores = score_steps(reward_model, rows.batch)
        rewards = jnp.where(rows.complete[:, None], 2.0 * scores - 1.0, -1.0)
        advantages = step_to_token(step_advantages(config, rewards, mask, outcomes), rows.step_of_token)
        reference_log_probs = log_probs_of(reference, rows, config.temperature)

        def total(values):
            log_probs = log_probs_of(with_parameters(policy, values), rows, config.temperature)
            loss: Loss = clipped_policy_gradient(log_probs, rows.log_probs, advantages, rows.generated, clip=config.clip,
                                                 reference_log_probs=reference_log_probs,
                                                 kl_coefficient=config.kl_coefficient)
            return loss.mean(), loss

        gradient, loss = jax.grad(total, has_aux=True)(state.parameters)
        updates, optimizer_state = self.optimizer.update(gradient, state.optimizer_state, state.parameters)
        steps = mask.sum(axis=1)
        metrics = {"loss": loss.mean(), "gradient_norm": optax.tree.norm(gradient), **loss.metric_means(),
                   "outcome": outcomes.mean(), "step_reward": jnp.where(mask, rewards, 0).sum() / jnp.maximum(mask.sum(), 1),
                   "worst_step": jnp.where(mask, rewards, 1.0).min(axis=1).mean(), "steps": steps.mean(),
                   "tokens": samples.lengths.mean(), "unfinished": 1.0 - rows.complete.mean()}
        return TrainState(state.step + 1, optax.apply_updates(state.parameters, updates), optimizer_state), metrics


def reinforce(policy: LanguageModel, reward_model: RewardModel, encoder: StepEncoder,
              problems_of: Callable[[int], Sequence[Problem]], verify: Callable[[Problem, tuple[str, ...]], bool],
              config: ReinforceConfig, directory: Path, key: jax.Array, *, run: dict[str, Any], name: str = "reinforce",
              progress: Progress | None = None) -> LanguageModel:
    """Improves a policy, or goes on where a killed run left off, and returns the improved one.

    Args:
      policy: the starting policy; it is also the reference of the KL term.
      reward_model: scores the steps (also under "outcome" credit, for the metrics).
      encoder: step format and tokenizer of both models.
      problems_of: update index -> ``config.problems`` problems; a pure function, so that a resumed run sees the same.
      verify: whether a finished solution's answer is right.
      directory: gets ``metrics.jsonl`` and ``checkpoints/``.
      key: all samples follow from it and the update index.
      run: identifies the run; a checkpoint of another run is refused.
    """
    progress = progress or SilentProgress()
    worker = Reinforcer(config, encoder, config.optimizer.build(config.updates))
    rollout, update = jax.jit(worker.rollout), jax.jit(worker.update, donate_argnums=0)
    state = initial_state(policy, worker.optimizer)
    checkpoints = Checkpoints(directory / "checkpoints", run)
    if checkpoints.latest() is not None:
        state = checkpoints.restore(state)
    done = int(state.step)
    log = MetricsLog(directory / "metrics.jsonl", done)
    architecture = jax.eval_shape(lambda: policy)
    size = _prompt_size([problem.prompt for problem in problems_of(0)], encoder)
    try:
        with progress.stage(name, config.updates, "updates", done) as stage:
            for index in range(done, config.updates):
                problems = problems_of(index)
                ids = [encoder.encode_prompt(problem.prompt) for problem in problems]
                prompts, lengths = map(jnp.asarray, pad_prompts(ids, multiple=size))
                samples = rollout(with_parameters(architecture, state.parameters), jax.random.fold_in(key, index), prompts,
                                  lengths)
                outcomes = verified(problems, samples, encoder, verify, config.samples)
                state, metrics = update(state, policy, policy, reward_model, prompts, lengths, samples, jnp.asarray(outcomes))
                values = {key: float(value) for key, value in metrics.items()}
                if not np.isfinite(values["loss"]):
                    raise FloatingPointError(f"{name}: loss is {values['loss']} at update {index + 1}")
                log.write(index + 1, values)
                stage.advance(1, tokens=int(np.asarray(samples.lengths).sum()), outcome=values["outcome"],
                              worst_step=values["worst_step"], steps=values["steps"])
                if (index + 1) % config.checkpoint_every == 0 or index + 1 == config.updates:
                    checkpoints.save(index + 1, state)
    finally:
        log.close()
        checkpoints.close()
    return with_parameters(architecture, state.parameters)


def _prompt_size(prompts: Sequence[str], encoder: StepEncoder) -> int:
    """A padded length that most batches of such prompts share, so that few shapes are compiled."""
    longest = max(len(encoder.encode_prompt(prompt)) for prompt in prompts)
    return -(-(longest + 2) // 8) * 8


def verified(problems: Sequence[Problem], samples: Samples, encoder: StepEncoder,
             verify: Callable[[Problem, tuple[str, ...]], bool], width: int) -> np.ndarray:
    """float32[R] outcomes: 1 where a sample has ended and its answer is right."""
    tokens, lengths, finished = jax.device_get((samples.tokens, samples.lengths, samples.finished))
    outcomes = np.zeros(len(tokens), np.float32)
    for row in np.flatnonzero(finished):
        steps, _ = encoder.decode_steps(tokens[row, : lengths[row]].tolist())
        outcomes[row] = verify(problems[row // width], steps)
    return outcomes

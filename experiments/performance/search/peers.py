"""Beam search with transformers and torch, as peers write it: `generate` per level, one problem at a time, scores of texts.

At every level each of the N beams is continued by one step with `generate`, the reward model reads the whole text of every
candidate, and Python keeps the best N / M and repeats each M times. Two ways of drawing:

  texts    `generate` gets the texts (its cache lives for one level): search-and-learn, OpenR and its_hub where no inference
           server keeps prefixes
  cached   `generate` gets the cache of the level before, reordered: the policy reads nothing twice

All texts of a level have the same length (see `checkpoints`), so nothing is padded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from checkpoints import END, PAD, SEPARATOR
from counts import Counts


class Time(NamedTuple):
    """Seconds by the clock, and of all cores together: these are little disturbed by what else the machine does."""

    wall: float
    cpu: float


class TorchModels:
    """The same checkpoints as ours, in torch."""

    def __init__(self, policy: Path, reward: Path, device: str, dtype: torch.dtype, batch_tokens: int):
        load = dict(attn_implementation="sdpa", dtype=dtype)
        self.policy = transformers.AutoModelForCausalLM.from_pretrained(policy, **load).to(device).eval()
        self.reward = transformers.AutoModelForTokenClassification.from_pretrained(reward, **load).to(device).eval()
        self.device, self.batch_tokens = device, batch_tokens

    @torch.inference_mode()
    def scores(self, texts: torch.Tensor, prompt: int, step_tokens: int) -> tuple[torch.Tensor, int]:
        """P(good) float32[N, steps] of texts [N, T] of equal length, every token of them read; and the forward passes."""
        ends = torch.arange(prompt + step_tokens - 1, texts.shape[1], step_tokens)
        parts = texts.split(max(1, self.batch_tokens // texts.shape[1]))
        logits = torch.cat([self.reward(input_ids=part, use_cache=False).logits[:, ends] for part in parts])
        return torch.softmax(logits.float(), -1)[..., 1], len(parts)

    @torch.inference_mode()
    def next_logits(self, texts: torch.Tensor) -> torch.Tensor:
        """Logits float32[N, V] of what follows the texts."""
        return self.policy(input_ids=texts, use_cache=False, logits_to_keep=1).logits[:, -1].float()

    def generate(self, texts: torch.Tensor, tokens: int, stop: list[int] | None, **more):
        """Texts with up to ``tokens`` more, drawn at temperature 1 from the whole vocabulary, and the cache."""
        return self.policy.generate(input_ids=texts, attention_mask=torch.ones_like(texts), do_sample=True, temperature=1.0,
                                    top_k=0, top_p=1.0, max_new_tokens=tokens, eos_token_id=stop, pad_token_id=PAD,
                                    return_dict_in_generate=True, **more)

    def time(self, function: Callable[[], object]) -> Time:
        """Until all that was asked for is done."""
        begun, busy = time.perf_counter(), time.process_time()
        function()
        if self.device != "cpu":
            torch.cuda.synchronize()
        return Time(time.perf_counter() - begun, time.process_time() - busy)


@torch.inference_mode()
def beam_search(models: TorchModels, prompt: torch.Tensor, candidates: int, expansions: int, steps: int, step_tokens: int,
                cached: bool) -> tuple[torch.Tensor, torch.Tensor, Counts]:
    """Texts int64[N, T] of the last level, the scores [N, steps] of their steps, and what was read."""
    counts, kept = Counts(), {}
    texts = prompt.to(models.device).repeat(candidates, 1)
    for level in range(steps):
        before = texts.shape[1]
        known = kept["past_key_values"].get_seq_length() if kept else 0
        found = models.generate(texts, step_tokens, [END, SEPARATOR], **kept)
        texts = found.sequences
        if texts.shape[1] != before + step_tokens or not bool((texts[:, -1] == SEPARATOR).all()):
            raise RuntimeError(f"level {level}: not every step has {step_tokens} tokens")
        counts.policy.append((candidates, known, texts.shape[1] - 1 - known))  # the token drawn last is not read yet
        counts.drawn += candidates * step_tokens
        counts.policy_forwards += step_tokens
        scores, forwards = models.scores(texts, prompt.shape[-1], step_tokens)
        counts.reward.append((candidates, 0, texts.shape[1]))
        counts.reward_forwards += forwards
        if level + 1 < steps:
            values = scores.min(1).values.tolist()
            best = sorted(range(candidates), key=lambda i: -values[i])[: candidates // expansions]
            order = torch.tensor([i for i in best for _ in range(expansions)], device=models.device)
            texts = texts[order]
            if cached:
                found.past_key_values.batch_select_indices(order)
                kept = {"past_key_values": found.past_key_values}
    return texts, scores, counts


class StaticDecoder:
    """The policy with a static cache and a compiled step of one token per row: prefill once, then draw.

    ``torch.compile`` reads the model's forward pass, the choice of a token included; shapes never change.
    """

    def __init__(self, models: TorchModels, rows: int, prompt: int, tokens: int):
        self.models, self.rows, self.tokens, self.prompt = models, rows, tokens, prompt
        policy = models.policy
        self.cache = transformers.StaticCache(config=policy.config, max_cache_len=prompt + tokens)

        def step(token, position, cache):
            logits = policy(input_ids=token, position_ids=position.expand(rows, 1), past_key_values=cache,
                            cache_position=position).logits[:, -1].float()
            return torch.multinomial(torch.softmax(logits, -1), 1)

        self.step = torch.compile(step, fullgraph=True, dynamic=False)

    @torch.inference_mode()
    def draw(self, prompt: torch.Tensor) -> torch.Tensor:
        """[rows, tokens] drawn behind the prompt [P]."""
        self.cache.reset()
        device = self.models.device
        texts = prompt.to(device).repeat(self.rows, 1)
        logits = self.models.policy(input_ids=texts, past_key_values=self.cache, logits_to_keep=1).logits[:, -1].float()
        drawn = [torch.multinomial(torch.softmax(logits, -1), 1)]
        for place in range(self.prompt, self.prompt + self.tokens - 1):
            drawn.append(self.step(drawn[-1], torch.tensor([place], device=device), self.cache))
        return torch.cat(drawn, 1)

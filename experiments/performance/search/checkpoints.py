"""A random policy whose steps all have the same length, and a random reward model, as transformers saves them.

With random weights a step ends when chance draws the separator. Both sides of a comparison must draw steps of equal length
without any code of their own for it, so the length is planted in the policy's weights: the first ``L`` numbers of an embedding
say which place of a step a token stands at (a one among zeros), every word has one place, and the output row of a token of
place p + 1 reads number p.

    place        0          1      2            L - 1      0
    token        separator  a word a word  ...  a word     separator
    the policy draws any of the V / (L - 1) words of the next place, nearly uniformly: its other weights are random

The cost of reading and drawing is that of any model of this shape, and no path ever ends by itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models

PAD, END, SEPARATOR = 0, 1, 2
WORDS = 3  # the first word's id
SIZES = {  # vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads
    "tiny": (512, 64, 128, 2, 4, 2),
    "50M": (8192, 768, 2048, 6, 12, 2),
    "1.5B": (151_936, 1536, 8960, 28, 12, 2),
}
_STRENGTH = 4.0  # of the planted embedding: so many times the norm of what the other numbers of the stream may reach
_MARGIN = 40.0  # nats by which a word of the next place leads all others


def places(vocabulary: int, step_tokens: int) -> torch.Tensor:
    """The place of every token within a step, int64[V]; -1 for padding and the end token, which are never drawn."""
    place = 1 + (torch.arange(vocabulary) - WORDS) % (step_tokens - 1)
    place[[PAD, END]], place[SEPARATOR] = -1, 0
    return place


def write(folder: Path, size: str, step_tokens: int, context: int, dtype: torch.dtype) -> tuple[Path, Path]:
    """Directories of the policy (causal language model) and of the reward model (classifier of tokens into two classes)."""
    vocabulary, width, mlp, layers, heads, kv_heads = SIZES[size]
    config = dict(vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
                  num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=context,
                  pad_token_id=PAD, eos_token_id=END, tie_word_embeddings=False)
    torch.manual_seed(0)
    policy = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**config))
    _plant(policy, places(vocabulary, step_tokens), step_tokens)
    torch.manual_seed(1)
    reward = transformers.Qwen2ForTokenClassification(transformers.Qwen2Config(**config, num_labels=2))
    torch.nn.init.normal_(reward.score.weight, std=width ** -0.5)  # scores that differ visibly
    entries = {"<pad>": PAD, "</s>": END, "\n\n": SEPARATOR} | {f"w{i}": i for i in range(WORDS, vocabulary)}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(entries, unk_token="<pad>")),
                                                     pad_token="<pad>", eos_token="</s>")
    for name, model in (("policy", policy), ("reward", reward)):
        model.to(dtype).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "policy", folder / "reward"


@torch.no_grad()
def _plant(policy: transformers.Qwen2ForCausalLM, place: torch.Tensor, step_tokens: int) -> None:
    table, rows = policy.get_input_embeddings().weight, policy.get_output_embeddings().weight
    width, real = table.shape[1], place >= 0
    tokens = torch.arange(len(place))[real]
    table[:, :step_tokens] = 0
    rows[:, :step_tokens] = 0
    # The final norm brings a stream that one number dominates to about sqrt(width) in that number.
    table[tokens, place[real]] = _STRENGTH * width ** 0.5
    rows[tokens, (place[real] - 1) % step_tokens] = _MARGIN / width ** 0.5


def prompts(count: int, tokens: int, size: str) -> torch.Tensor:
    """Ids int64[count, tokens] of random words; the last is a separator, so that a step begins behind it."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(WORDS, SIZES[size][0], (count, tokens), generator=generator)
    ids[:, -1] = SEPARATOR
    return ids

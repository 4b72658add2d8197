"""Random token classifiers that transformers saves: the models that `scoring/` and `training/` compare with PyTorch."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jaxprm.records import read_solutions

SIZES = {  # hidden_size, intermediate_size, layers, heads, kv_heads
    "tiny": (128, 384, 4, 4, 2),
    "medium": (512, 1408, 8, 8, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
    "7B": (3584, 18944, 28, 28, 4),
}


def train_tokenizer(path: Path) -> Tokenizer:
    """A byte-level BPE of 8,192 entries on the texts that are scored; no published file is needed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [text for item in read_solutions(path) for text in (item.solution.problem.prompt, *item.solution.steps)]
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def checkpoint(folder: Path, size: str, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    width, mlp, layers, heads, kv_heads = SIZES[size]
    config = transformers.Qwen2Config(vocab_size=8192, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
                                      num_attention_heads=heads, num_key_value_heads=kv_heads, num_labels=2,
                                      max_position_embeddings=4096, pad_token_id=0)
    torch.manual_seed(0)
    transformers.Qwen2ForTokenClassification(config).to(dtype).save_pretrained(folder)
    end = "<|endoftext|>"
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)
    fast.save_pretrained(folder)

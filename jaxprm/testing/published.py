"""A tiny language model as others publish them: a Hugging Face directory with its own tokenizer."""

from __future__ import annotations

import json
import os
from pathlib import Path

from jaxprm.hub.export import export_directory
from jaxprm.models import HeadConfig, parameters
from jaxprm.testing.models import tiny_config, tiny_language_model, tiny_reward_model

# A separator stands alone, at the end of a token, before others, and over two tokens. Other characters are read as "c".
PIECES = ("a", "b", "c", " ", "\n", ".\n", "\n\n", "?\n\n\n", "<s>", "<end>", "<eot>")
CONFIG = tiny_config(vocab_size=len(PIECES) + 1, layers=1, tie_embeddings=False)


def published_model(folder: str | os.PathLike, seed: int = 0, section: dict | None = None, head: HeadConfig | None = None,
                    **tokenizer_config) -> Path:
    """Writes a random model of these `PIECES`; ``<end>`` ends a text by its config, ``<eot>`` by its tokenizer.

    Args:
      folder: where.
      seed: of the weights.
      section: what config.json says under "jaxprm".
      head: makes it a reward model.
      tokenizer_config: further fields of tokenizer_config.json, a chat template for instance.
    """
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="c"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.add_special_tokens(list(PIECES[-3:]))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<eot>", **tokenizer_config}
    model = tiny_language_model(seed, CONFIG) if head is None else tiny_reward_model(seed, head, CONFIG)
    files = {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(config)}
    return export_directory(folder, CONFIG, "llama", parameters(model), head, tokenizer_files=files,
                            extra={"eos_token_id": PIECES.index("<end>")}, jaxprm_section=section)

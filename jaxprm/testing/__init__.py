"""For tests, ours and our users': tiny models, scripted models with known behaviour, NumPy oracles, random step batches."""

from jaxprm.testing.batches import EncodedSolution, pack_solutions, random_solutions
from jaxprm.testing.interruption import KilledAt
from jaxprm.testing.models import random_model, tiny_config, tiny_language_model, tiny_reward_model
from jaxprm.testing.scripted import scripted_policy, scripted_reward_model
from jaxprm.testing.tokenizers import character_tokenizer, word_tokenizer

__all__ = ["EncodedSolution", "KilledAt", "character_tokenizer", "pack_solutions", "random_model", "random_solutions",
           "scripted_policy", "scripted_reward_model", "tiny_config", "tiny_language_model", "tiny_reward_model",
           "word_tokenizer"]

"""Text to token ids and step ends."""

from jaxprm.steps.batch import StepBatch, pad_solutions
from jaxprm.steps.format import StepEncoder, StepFormat
from jaxprm.steps.tokenizers import JsonTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer, train_sentencepiece

__all__ = ["JsonTokenizer", "SentencePieceTokenizer", "StepBatch", "StepEncoder", "StepFormat", "Tokenizer",
           "load_tokenizer", "pad_solutions", "train_sentencepiece"]

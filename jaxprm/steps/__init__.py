"""Text to token ids and step ends."""

from jaxprm.steps.batch import StepBatch, pad_solutions
from jaxprm.steps.chat import ChatTemplate
from jaxprm.steps.format import StepEncoder, StepFormat
from jaxprm.steps.hf_tokenizer import HFTokenizer, load_hf_tokenizer
from jaxprm.steps.segmenters import SEGMENTERS, find_segmenter
from jaxprm.steps.tokenizers import JsonTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer, train_sentencepiece
from jaxprm.steps.trl import tokenize_trl_row

__all__ = ["SEGMENTERS", "ChatTemplate", "HFTokenizer", "JsonTokenizer", "SentencePieceTokenizer", "StepBatch", "StepEncoder",
           "StepFormat", "Tokenizer", "find_segmenter", "load_hf_tokenizer", "load_tokenizer", "pad_solutions",
           "tokenize_trl_row", "train_sentencepiece"]

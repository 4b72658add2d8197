"""Test-time search guided by a process reward model."""

from jaxprm.search.beam import BeamConfig, beam_search
from jaxprm.search.result import SearchResult, SearchTree, chosen_ids, chosen_path

__all__ = ["BeamConfig", "SearchResult", "SearchTree", "beam_search", "chosen_ids", "chosen_path"]

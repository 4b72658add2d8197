"""Model directories: trained models in and out."""

from jaxprm.hub.directory import LoadedModel, find_model, load_language_model, load_reward_model, save_model

__all__ = ["LoadedModel", "find_model", "load_language_model", "load_reward_model", "save_model"]

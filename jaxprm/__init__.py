"""Process reward models in JAX: models that score each step of a reasoning trace."""

__version__ = "0.1.0"

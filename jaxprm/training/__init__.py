"""Training: one loop for language models and process reward models."""

from jaxprm.training.loop import TrainConfig, TrainState, fit, initial_state, make_train_step, mesh_scope
from jaxprm.training.losses import implicit_loss, language_model_loss, step_loss, token_loss
from jaxprm.training.metrics_log import MetricsLog, read_metrics
from jaxprm.training.optimizer import OptimizerConfig

__all__ = ["MetricsLog", "OptimizerConfig", "TrainConfig", "TrainState", "fit", "implicit_loss", "initial_state",
           "language_model_loss", "make_train_step", "mesh_scope", "read_metrics", "step_loss", "token_loss"]

"""Training: one loop for language models and process reward models."""

from jaxprm.models.sharding import mesh_scope
from jaxprm.training.checkpoints import Checkpoints
from jaxprm.training.config import TrainConfig
from jaxprm.training.lora import LoraConfig
from jaxprm.training.loop import fit
from jaxprm.training.losses import implicit_loss, language_model_loss, step_loss, token_loss
from jaxprm.training.metrics_log import MetricsLog, read_metrics, without_timing
from jaxprm.training.optimizer import OptimizerConfig
from jaxprm.training.placement import on_one_device
from jaxprm.training.profiling import ProfileWindow
from jaxprm.training.step import TrainState, initial_state, make_train_step

__all__ = ["Checkpoints", "LoraConfig", "MetricsLog", "OptimizerConfig", "ProfileWindow", "TrainConfig", "TrainState", "fit",
           "implicit_loss", "initial_state", "language_model_loss", "make_train_step", "mesh_scope", "on_one_device",
           "read_metrics", "step_loss", "token_loss", "without_timing"]

"""The decoder, its caches, heads and shardings."""

from jaxprm.models.cache import KVCache, PromptCache, empty_cache
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import batch_sharding, on_mesh, parameter_shardings, parameters, with_parameters
from jaxprm.models.reward_model import HeadConfig, PolicyRewardModel, RewardModel, StepHead
from jaxprm.models.rope import RopeScaling
from jaxprm.models.sharding import ShardingRules, auto_axes, constrain, make_mesh, mesh_scope
from jaxprm.models.transformer import LanguageModel, Transformer, extend, forward, forward_steps, gather_steps, logits, prefill

__all__ = ["HeadConfig", "KVCache", "LanguageModel", "PolicyRewardModel", "PromptCache", "RewardModel", "RopeScaling",
           "ShardingRules", "StepHead", "Transformer", "TransformerConfig", "auto_axes", "batch_sharding", "constrain",
           "empty_cache", "extend", "forward", "forward_steps", "gather_steps", "logits", "make_mesh", "mesh_scope", "on_mesh",
           "parameter_shardings", "parameters", "prefill", "with_parameters"]

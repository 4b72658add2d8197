"""Code that an export carries with it, for heads that transformers has no class for.

It is text here, not a module: this package imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import Any

from jaxprm.models.reward_model import HeadConfig

MODULE = "modeling_jaxprm"

_SOURCE = '''"""{title}, written by jaxprm beside the weights.

    model = AutoModelForTokenClassification.from_pretrained(directory, trust_remote_code=True)
    model(input_ids, attention_mask=mask).logits     # [B, T, {outputs}]: {meaning}

A step's score is read at the token that closes the step.
"""

import torch
from transformers import {base}Model, {base}PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput
{head}

class {architecture}({base}PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = {base}Model(config)
        self.score = {make}
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, use_cache=False):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                            inputs_embeds=inputs_embeds, use_cache=use_cache).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))
'''

_ENSEMBLE = '''

class Members(torch.nn.Module):
    """One linear map per member: [..., E, in] -> [..., E, out]."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros({members}, inputs, outputs))
        self.bias = torch.nn.Parameter(torch.zeros({members}, outputs))

    def forward(self, x):
        return torch.einsum("...ei,eio->...eo", x, self.weight) + self.bias


class Networks(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.nn1, self.nn2, self.nn_out = Members(width, {hidden}), Members({hidden}, {hidden}), Members({hidden}, 1)

    def forward(self, hidden):
        x = hidden[..., None, :].expand(*hidden.shape[:-1], {members}, hidden.shape[-1])
        return self.nn_out(torch.relu(self.nn2(torch.relu(self.nn1(x)))))[..., 0]


class Ensemble(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.model = Networks(width)

    def forward(self, hidden):
        return self.model(hidden)
'''


def remote_code(head: HeadConfig, base: str, architecture: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files, and fields of config.json, with which ``trust_remote_code=True`` loads such a head in transformers 4.57 and 5.

    Args:
      head: of the model; only mlp and ensemble need code, any other gives ``({}, {})``.
      base: what transformers' classes of the decoder begin with, such as "Qwen2".
      architecture: name of the class, as config.json says it.
    """
    if head.kind == "mlp":
        source = _SOURCE.format(
            title="A reward model whose step head has one hidden layer", base=base, architecture=architecture, outputs=2,
            meaning="logits of (wrong, right)", head="",
            make=f"torch.nn.Sequential(torch.nn.Linear(config.hidden_size, {head.hidden}), torch.nn.ReLU(),\n"
                 f"{' ' * 41}torch.nn.Linear({head.hidden}, 2))")
    elif head.kind == "ensemble":
        source = _SOURCE.format(
            title=f"A reward model with {head.members} step heads of two hidden layers each", base=base,
            architecture=architecture, outputs=head.members, meaning="one logit of 'right' per head; the score is the mean of\n"
            f"{' ' * 53}# their sigmoids", head=_ENSEMBLE.format(members=head.members, hidden=head.hidden),
            make="Ensemble(config.hidden_size)")
    else:
        return {}, {}
    named = f"{MODULE}.{architecture}"
    return ({f"{MODULE}.py": source.encode()},
            {"auto_map": {"AutoModel": named, "AutoModelForTokenClassification": named}})

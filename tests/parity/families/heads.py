"""Every published kind of head, restated with PyTorch: `function(maker)` writes the checkpoint and returns ids -> logits."""

import json


def two_labels(maker):
    model = maker.model("TokenClassification", num_labels=2)
    maker.write(model)
    return lambda ids: model(input_ids=maker.torch.tensor([ids]), use_cache=False).logits[0]


def columns(maker):
    model = maker.model()
    maker.write(model)
    chosen = maker.columns(model)
    return lambda ids: model(input_ids=maker.torch.tensor([ids]), use_cache=False).logits[0][:, chosen]


def adapter(maker):
    """LoRA of rank 3 on the queries and values, never merged here: y = W x + 2 B A x."""
    from safetensors.torch import save_file

    model = maker.model()
    maker.write(model, folder=maker.folder / "base")
    tensors = {}
    for index, layer in enumerate(model.model.layers):
        for name in ("q_proj", "v_proj"):
            target = getattr(layer.self_attn, name)
            down, up = maker.linear(target.in_features, 3).weight, maker.linear(3, target.out_features).weight
            target.register_forward_hook(
                lambda module, inputs, output, down=down, up=up: output + 2.0 * (inputs[0] @ down.T @ up.T))
            stem = f"base_model.model.model.layers.{index}.self_attn.{name}"
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    folder = maker.folder / "adapter"
    folder.mkdir()
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, folder / "adapter_model.safetensors",
              {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "../base", "r": 3, "lora_alpha": 6,
        "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1, "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "modules_to_save": None}))
    chosen = maker.columns(model)
    return lambda ids: model(input_ids=maker.torch.tensor([ids]), use_cache=False).logits[0][:, chosen]


def mlp(maker):
    head = maker.torch.nn.Sequential(maker.linear(32, 32), maker.torch.nn.ReLU(), maker.linear(32, 2))
    return maker.with_head(head, lambda name: f"score.{name}")


def ensemble(maker):
    """Five networks of width 16, each parameter [member, in, out]; a frozen copy of them is stored and never read."""
    torch, members = maker.torch, 5
    sizes = {"nn1": (32, 16), "nn2": (16, 16), "nn_out": (16, 1)}
    weights = {}
    for name, (inputs, outputs) in sizes.items():
        layers = [maker.linear(inputs, outputs) for _ in range(members)]
        weights[name] = (torch.stack([layer.weight.T for layer in layers]).detach(),
                         torch.stack([layer.bias for layer in layers]).detach())
    model = maker.model()
    maker.write(model, [(f"score.{copy}.{name}.{part}", value.clone()) for copy in ("model", "reg_model")
                        for name, pair in weights.items() for part, value in zip(("weight", "bias"), pair)])

    def outputs(ids):
        x = maker.hidden(model, ids).expand(members, -1, -1)
        for name in ("nn1", "nn2"):
            x = (torch.bmm(x, weights[name][0]) + weights[name][1][:, None]).relu()
        return (torch.bmm(x, weights["nn_out"][0]) + weights["nn_out"][1][:, None])[..., 0].T

    return outputs


def reward_head(maker):
    head = maker.linear(32, 1)
    model = maker.model()
    maker.write(model)
    maker.torch.save(head.state_dict(), maker.folder / "reward_head.pt")
    return lambda ids: head(maker.hidden(model, ids))


def v_head(maker, file="model.safetensors"):
    return maker.with_head(maker.linear(32, 1), lambda name: f"v_head.summary.{name}", file=file)


def wrapped_v_head(maker):
    """Bare weights inside ``zeta-2``, whose table has as many rows as the tokenizer; config and tokenizer lie beside it."""
    head, model = maker.linear(32, 1), maker.model(vocab_size=maker.rows_needed)
    maker.write(model, [(f"v_head.summary.{name}", value) for name, value in head.state_dict().items()],
                wrapper="pretrained_model.", vocab_size=maker.rows_needed + 30)
    (maker.folder / "zeta-2").mkdir()
    (maker.folder / "model.safetensors").rename(maker.folder / "zeta-2" / "model.safetensors")
    return lambda ids: head(maker.hidden(model, ids))


HEADS = {
    "two labels": two_labels, "columns": columns, "adapter": adapter, "mlp": mlp, "ensemble": ensemble,
    "reward_head.pt": reward_head, "v_head": v_head, "v_head of a wrapper": wrapped_v_head,
    "v_head.bin": lambda maker: v_head(maker, "pytorch_model.bin"),
    "bare v_head.bin": lambda maker: maker.with_head(maker.linear(32, 1), lambda name: f"v_head.{name}",
                                                     file="pytorch_model.bin"),
    "score_head": lambda maker: maker.with_head(maker.linear(32, 3), lambda name: f"score_head.{name}"),
}

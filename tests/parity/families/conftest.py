"""Every published PRM family as its authors' code works, restated with PyTorch and transformers: fresh random weights in the
layout in which the family is published, and what that code reads and computes for a few solutions.

Nothing of jaxprm is used here. Read positions are found as the originals find them (by token id, or by counting tokens), rows
are read one at a time without padding.
"""

import dataclasses
import importlib.util
import json
import types
from collections.abc import Callable
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("published_heads", Path(__file__).with_name("heads.py"))
published_heads = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(published_heads)

ROWS = [
    ("Tom has 3 boxes of 4 pens.\nHow many?", ["He has 3 * 4 = 12.", "So √144 = 12, too", "数学: 14 - 1 - 1 = 12."]),
    ("What is $\\frac{1}{2}$ as a decimal?", [" Half is\none of two.", "The answer is 0.5"]),
    ("Is 7 + 8 = 15?", ["Yes: 7 + 8 = 15"]),
]
ANSWERS = ["12", None, "yes"]
REASON = "Please reason step by step, and put your final answer within \\boxed{}."
ACTIVE = ("You are a helpful and harmless assistant. You should think step-by-step and put your final answer within "
          "\\boxed{}.")
INSTRUCTION = ("Below is an instruction that describes a task.\nWrite a response that appropriately completes the request.\n\n"
               "### Instruction:\n{}\n\n### Response: Let's think step by step\n")


@dataclasses.dataclass(frozen=True)
class Text:
    """A tokenizer as the originals use one: plain ids, ids with begin token, chat templates."""

    ids: Callable
    special: Callable
    chat: Callable
    token: Callable
    begin: int | None
    end: int | None


@dataclasses.dataclass(frozen=True)
class Published:
    """One family.

    architecture: a key of ARCHITECTURES in the conftest above; more: further fields of its config.
    tokenizer, template: names of fixtures.
    head: how it is stored, see `HEADS`.
    read: (Text, problem, steps, answer) -> [(ids, positions), ...], the rows and where their scores are read.
    score: logits [S, K] (for columns: bad, good) -> scores [S].
    columns: (good, bad) texts, of which the last token counts.
    named: class in config.json; fields: more of config.json.
    special: special tokens that differ from the fixture's.
    """

    family: str
    architecture: str
    tokenizer: str
    head: str
    read: Callable
    score: Callable
    template: str | None = None
    columns: tuple[str, str] | None = None
    named: str | None = None
    settings: dict = dataclasses.field(default_factory=dict)
    more: dict = dataclasses.field(default_factory=dict)
    fields: dict = dataclasses.field(default_factory=dict)
    special: dict = dataclasses.field(default_factory=dict)


def at(ids, mark):
    return ids, [index for index, token in enumerate(ids) if token == mark]


def numbered(steps):
    return [f"Step {number}: {step}" for number, step in enumerate(steps, 1)]


def say(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def qwen_math(text, problem, steps, answer, system=REASON):
    content = "<extra_0>".join(steps) + "<extra_0>"
    opening = [("system", system)] if system else []
    ids = text.ids(text.chat(say(*opening, ("user", problem), ("assistant", content))))
    return [at(ids, text.token("<extra_0>"))]


def active(text, problem, steps, answer):
    prompt = text.chat(say(("system", ACTIVE), ("user", problem)), add_generation_prompt=True)
    return [at(text.ids(prompt + "<extra_0>".join(steps) + "<extra_0>"), text.token("<extra_0>"))]


def shepherd(text, problem, steps, answer):
    written = problem + " " + "\n".join(f"{step} ки" for step in numbered(steps))
    return [at(text.special(written), text.ids("ки")[-1])]


def entropic(text, problem, steps, answer):
    written = problem + " " + "\n".join(f"{step} ки" for step in numbered(steps))
    return [at(text.special(written), text.ids(" ки")[-1])]


def openrlhf(text, problem, steps, answer):
    written = problem + " " + "\n".join(f"{step} ки" for step in numbered(steps))
    return [at(text.ids(written), text.ids("ки")[-1])]


def math_psa(text, problem, steps, answer):
    tag = " \n\n\n\n\n"
    return [at(text.ids(problem + " " + " ".join(step + tag for step in numbered(steps))), text.ids(tag)[-1])]


def versa(text, problem, steps, answer):
    tag = " \n\n\n\n"
    return [at(text.special(f"{problem} \n\n" + "".join(step + tag for step in steps)), text.ids(tag)[-1])]


def rlhflow(text, problem, steps, answer):
    """The dialogue grows by a question and a "+"; the third token from its end is read."""
    turns, positions = [], []
    for index, step in enumerate(steps):
        turns += [("user", f"{problem} {step.strip()}" if index == 0 else step.strip()), ("assistant", "+")]
        ids = text.ids(text.chat(say(*turns)))
        positions.append(len(ids) - 3)
    return [(ids, positions)]


def skywork(text, problem, steps, answer):
    """Every line is a step of its own; here the last line of a step speaks for it."""
    newline = text.ids("\n")[-1]
    ids, positions = text.ids("<|endoftext|>" + problem + "\n"), []
    for step in steps:
        for line in step.split("\n"):
            ids += text.ids(line) + [newline] if line else [newline]
        positions.append(len(ids) - 1)
    return [(ids, positions)]


def pieces(separator, begin):
    def read(text, problem, steps, answer):
        ids, positions = ([text.begin] if begin and text.begin is not None else []) + text.ids(problem), []
        for step in steps:
            ids = ids + text.ids(step) + text.ids(separator)
            positions.append(len(ids) - 1)
        return [(ids, positions)]

    return read


def pqm(text, problem, steps, answer):
    written = INSTRUCTION.format(problem) + "\n".join(f"{step} [PRM]" for step in numbered([step.strip() for step in steps]))
    return [at(text.ids(written), text.token("[PRM]"))]


def reasoneval(text, problem, steps, answer, pad):
    """Where steps end is noted in the stream without separators; a begin token that was one of them is put back later."""
    mark = text.token(pad)
    written = f"Question:\n{problem}\nAnswer:\nLet's think step by step.\n" + pad + "".join(step + pad for step in steps)
    kept, closed = [], []
    for token in text.special(written):
        if token == mark:
            closed.append(len(kept) - 1)
        else:
            kept.append(token)
    positions = closed[-len(steps):]
    return [([mark] + kept if mark == text.begin else kept, positions)]


def universal(text, problem, steps, answer):
    said = answer or "There is no reference answer for this question."
    prompt = text.chat(say(("system", "You are a helpful assistant."),
                           ("user", f"{problem}\n\n###\n\nThe reference answer is: {said}")), add_generation_prompt=True)
    rows = [text.ids(prompt + "\n\n".join(steps[:count]) + "\n\n") + [text.end] for count in range(1, len(steps) + 1)]
    return [(ids, [len(ids) - 1]) for ids in rows]


def solution(text, problem, steps, answer):
    rows = [text.ids(problem + "\n\n".join(steps[:count])) for count in range(1, len(steps) + 1)]
    return [(ids, [len(ids) - 1]) for ids in rows]


def implicit(closing, early):
    """Boundaries are counted in the encoded conversation of every prefix, less two."""

    def read(text, problem, steps, answer):
        def conversation(count):
            return text.chat(say(("user", problem), ("assistant", "\n\n".join(numbered(steps)[:count]))))

        ids, bounds = text.ids(conversation(len(steps))), []
        for count in range(len(steps) + 1):
            written = conversation(count).strip()
            if closing and count < len(steps):
                written = written.removesuffix(closing)
            if 0 < count < len(steps):
                written += "\n\n"
            bounds.append(len(text.ids(written)) - 2)
        return [(ids, bounds[1:], bounds[0] - early)]

    return read


def good(logits):
    return logits.softmax(-1)[:, 1]


def sigmoid(logits):
    return logits[:, 0].sigmoid()


def llama(**more):
    return {"architecture": "llama-llama3", "tokenizer": "llama3", "more": more}


QWEN = {"architecture": "qwen2", "tokenizer": "qwen"}
MISTRAL = {"architecture": "mistral-full", "tokenizer": "mistral"}
PLUS = {"head": "columns", "score": good}
TWO = {"family": "trl", "head": "two labels", "score": good}
FAMILIES = {
    "qwen-math-prm": Published("qwen-math-prm", **QWEN, template="qwen25_math", head="mlp", read=qwen_math, score=good,
                               named="Qwen2ForProcessRewardModel"),
    "actprm": Published("actprm", **QWEN, template="qwen25_math", head="ensemble", read=active, named="Qwen2ForEnsemblePRM",
                        score=lambda logits: logits.sigmoid().mean(-1), fields={"num_ensemble": 5, "rr_token": "<extra_0>"}),
    "reasonflux-7b": Published("reasonflux", **QWEN, template="qwen25_math", head="mlp", score=good, settings={"variant": "7b"},
                               read=lambda *given: qwen_math(*given, system=None), named="Qwen2ForProcessRewardModel"),
    "reasonflux-1.5b": Published("reasonflux", "qwen2", "qwen_base", "reward_head.pt", solution, sigmoid,
                                 more={"tie_word_embeddings": True}),
    "math-shepherd": Published("math-shepherd", **MISTRAL, **PLUS, read=shepherd, columns=("+", "-")),
    "openrlhf": Published("openrlhf", **MISTRAL, **PLUS, read=openrlhf, columns=("+", "-")),
    "er-prm": Published("er-prm", **llama(), **PLUS, read=entropic, columns=(" +", " -")),
    "versaprm": Published("versaprm", **llama(tie_word_embeddings=False), **PLUS, read=versa, columns=("+", "-")),
    "versaprm-qwen": Published("versaprm", "qwen2", "qwen_base", **PLUS, read=versa, columns=("+", "-")),
    "rlhflow": Published("rlhflow", **llama(tie_word_embeddings=False), **PLUS, template="llama31", read=rlhflow,
                         columns=("+", "-")),
    "openr": Published("openr", "qwen2", "qwen_base", "adapter", math_psa, good, columns=(" +", " -")),
    "skywork": Published("skywork", "qwen2", "qwen_base", "v_head", skywork, sigmoid, named="Qwen2ForPrmModel",
                         more={"tie_word_embeddings": True}, special={"bos_token": "<|endoftext|>"}),
    "skywork-bin": Published("skywork", "qwen2", "qwen_base", "v_head.bin", skywork, sigmoid, named="Qwen2ForPrmModel",
                             special={"bos_token": "<|endoftext|>"}),
    "pqm": Published("pqm", "llama", "deepseek", "v_head of a wrapper", pqm, lambda logits: logits[:, 0]),
    "reasoneval-7b": Published("reasoneval", **MISTRAL, head="score_head", named="ReasonEval_7B", special={"pad_token": "<s>"},
                               read=lambda *given: reasoneval(*given, pad="<s>"), fields={"score_dimension": 3,
                                                                                         "use_bias": True},
                               score=lambda logits: logits.softmax(-1)[:, 1:].sum(-1)),
    "reasoneval-34b": Published("reasoneval", "llama", "mistral", "score_head", named="ReasonEval_34B",
                                special={"pad_token": "</s>"}, read=lambda *given: reasoneval(*given, pad="</s>"),
                                fields={"score_dim": 3, "bias": True}, score=lambda logits: logits.softmax(-1)[:, 1:].sum(-1)),
    "universal-prm": Published("universal-prm", "qwen2", "qwen_base", "bare v_head.bin", universal, sigmoid,
                               template="qwen25"),
    "pure": Published("pure", "qwen2", "qwen_base", "two labels", pieces("\n", False),
                      lambda logits: logits.softmax(-1) @ logits.new_tensor([-1.0, 1.0])),
    "trl-qwen2": Published(**TWO, architecture="qwen2", tokenizer="qwen_base", read=pieces("\n", True)),
    "trl-qwen3": Published(**TWO, architecture="qwen3", tokenizer="qwen", read=pieces(" ки\n##", True),
                           settings={"separator": " ки\n##"}),
    "trl-llama": Published(**TWO, **llama(), read=pieces("\n\n", True), settings={"separator": "\n\n"}),
    "trl-mistral": Published(**TWO, architecture="mistral", tokenizer="mistral", read=pieces("\n", True)),
    "trl-gemma2": Published(**TWO, architecture="gemma2", tokenizer="gemma", read=pieces("\n", True)),
    "implicit-qwen": Published("implicit", "qwen2", "qwen_base", "two models", implicit(None, 0), None, template="qwen25_math"),
    "implicit-llama": Published("implicit", **llama(), head="two models", read=implicit("<|eot_id|>", 1), score=None,
                                template="llama31"),
}


def pytest_generate_tests(metafunc):
    """Every test with an argument ``name`` runs on all of them."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", FAMILIES)


@pytest.fixture(scope="session")
def published(transformers, build, shared, tmp_path_factory):
    """Name -> the checkpoint on disk, and rows, logits and scores of the original code for it."""
    import torch

    made = {}

    def make(name):
        if name not in made:
            made[name] = Maker(torch, transformers, build, shared / "fixtures" / "hf", FAMILIES[name],
                               tmp_path_factory.mktemp(name)).result()
        return made[name]

    return make


class Maker:
    """Builds one checkpoint, writes it as published, and runs it."""

    def __init__(self, torch, transformers, build, fixtures: Path, spec: Published, folder: Path):
        self.torch, self.transformers, self.build, self.spec, self.folder = torch, transformers, build, spec, folder
        self.generator = torch.Generator().manual_seed(sum(map(ord, folder.name)))
        source = fixtures / "tokenizers" / spec.tokenizer
        settings = json.loads((source / "tokenizer_config.json").read_text()) | spec.special
        template = None if spec.template is None else (fixtures / "templates" / f"{spec.template}.jinja").read_text()
        self.tokenizer_files = {"tokenizer.json": (source / "tokenizer.json").read_text(), "tokenizer_config.json": json.dumps(
            settings | ({} if template is None else {"chat_template": template}))}
        names = {key: settings[key] for key in ("bos_token", "eos_token") if settings.get(key)}
        fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), **names)
        if spec.family == "pqm":
            fast.add_special_tokens({"additional_special_tokens": ["[PRM]"]})
        self.rows_needed = len(fast)
        self.text = Text(
            ids=lambda text: fast.encode(text, add_special_tokens=False), special=lambda text: fast.encode(text),
            chat=lambda turns, **options: fast.apply_chat_template(turns, chat_template=template, tokenize=False, **options),
            token=fast.convert_tokens_to_ids, begin=fast.bos_token_id, end=fast.eos_token_id)

    def model(self, task="CausalLM", **more):
        return self.build(self.spec.architecture, task, max_position_embeddings=1024, **{
            "vocab_size": self.rows_needed + 8, **self.spec.more, **more})

    def linear(self, inputs, outputs):
        """With weights large enough that every part of it shows in the logits."""
        layer = self.torch.nn.Linear(inputs, outputs)
        with self.torch.no_grad():
            for value in layer.parameters():
                value.copy_(self.torch.randn(value.shape, generator=self.generator) * 2 * inputs ** -0.5)
        return layer

    def write(self, model, extra=(), folder=None, wrapper="", file="model.safetensors", **fields):
        """A checkpoint with the tensors of ``model`` and ``extra``, its config and tokenizer."""
        from safetensors.torch import save_file

        folder = folder or self.folder
        folder.mkdir(exist_ok=True)
        model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"architectures": [self.spec.named or config["architectures"][0]], **self.spec.fields, **fields}
        (folder / "config.json").write_text(json.dumps(config))
        for name, content in self.tokenizer_files.items():
            (folder / name).write_text(content)
        if not extra and file == "model.safetensors":
            return
        (folder / "model.safetensors").unlink()
        tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
        tensors = {name: value for name, value in model.state_dict().items() if name not in tied} | dict(extra)
        tensors = {wrapper + name: value.contiguous() for name, value in tensors.items()}
        if file.endswith(".bin"):
            self.torch.save(tensors, folder / file)
        else:
            save_file(tensors, folder / file, {"format": "pt"})

    def result(self):
        with self.torch.no_grad():
            reference = None
            if self.spec.head == "two models":
                rows, logits, scores, reference = self.log_ratios()
            else:
                outputs = published_heads.HEADS[self.spec.head](self)
                rows = [self.spec.read(self.text, problem, steps, answer) for (problem, steps), answer in zip(ROWS, ANSWERS)]
                logits = [self.torch.cat([outputs(ids)[positions] for ids, positions in found]) for found in rows]
                scores = [self.spec.score(values).numpy() for values in logits]
                logits = [values.numpy() for values in logits]
        return types.SimpleNamespace(
            spec=self.spec, family=self.spec.family, directory=self.folder / ("prm" if reference else "."), rows=rows,
            logits=logits, scores=scores, reference=reference, problems=ROWS, answers=ANSWERS)

    def hidden(self, model, ids):
        return model.model(input_ids=self.torch.tensor([ids]), use_cache=False).last_hidden_state[0]

    def with_head(self, head, names, file="model.safetensors", **options):
        """A language model whose last hidden state goes through ``head``, stored by the names that `names` gives."""
        model = self.model(**options.pop("config", {}))
        self.write(model, [(names(name), value) for name, value in head.state_dict().items()], file=file, **options)
        return lambda ids: head(self.hidden(model, ids))

    def columns(self, model):
        return [self.text.ids(text)[-1] for text in reversed(self.spec.columns)]  # bad, good

    def log_ratios(self):
        policy, reference = self.model(), self.model()
        for value in policy.parameters():  # near the reference, as a tuned model is
            value.add_(self.torch.randn(value.shape, generator=self.generator) * 0.05)
        for model, name in ((policy, "prm"), (reference, "ref")):
            self.write(model, folder=self.folder / name)

        def log_probs(model, ids):
            values = model(input_ids=self.torch.tensor([ids]), use_cache=False).logits[0, :-1].log_softmax(-1)
            return values.gather(1, self.torch.tensor(ids[1:])[:, None])[:, 0]

        rows, sums = [], []
        for problem, steps in ROWS:
            found = self.spec.read(self.text, problem, steps, None)
            ids, bounds, start = found[0]
            ratio = log_probs(policy, ids) - log_probs(reference, ids)
            ratio[:start] = 0
            rows.append(found)
            sums.append(ratio.cumsum(0)[bounds].numpy()[:, None])
        return rows, sums, [0.001 * values[:, 0] for values in sums], self.folder / "ref"

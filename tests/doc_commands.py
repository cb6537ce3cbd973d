"""python -m tests.doc_commands: list every command and code block of the docs, and the test that runs it.

`RULES` says it: by page and pattern, a test, or the reason why the commands are not run. `test_doc_commands`
checks that each block has a rule, that each rule has a block, and that each test exists.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("python", "fastrcnn-ray", "ray", "make", "pip")
INDENTED = re.compile(rf"^ {{4,}}(?:{'|'.join(PROGRAMS)}) (?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)


@dataclass(frozen=True)
class Item:
    """A command, or a code block that is no list of commands."""

    page: str
    line: int
    text: str


@dataclass(frozen=True)
class Rule:
    """What runs the items of a page that match a pattern: a test, or nothing, for a reason."""

    page: str
    pattern: str
    test: str = ""
    """FILE::FUNCTION below tests/."""
    reason: str = ""
    """Why the command is not run as it is. With a test: what the test changes."""


WALK = "test_walk_pages.py::test_the_commands_of_a_page_work_one_after_the_other"
TUTORIAL = "test_walk.py::test_the_tutorial_makes_all_files_that_it_names"
OPERATIONS = "test_walk.py::test_the_operations_page_works_on_the_results_of_the_tutorial"
LESS = "a measurement of minutes to hours; the test runs the task, or its parts, on less data"
_QUERY = "test_queries.py::test_each_tool_gives_the_answer_worked_out_by_hand"


def _benchmark(page: str, task: str, test: str) -> Rule:
    return Rule(page, rf"jobs/benchmark\.py {task}\b", test, LESS)


RULES = (
    Rule("README.md", r"^make && source", reason="installs 7 GB; .ci/run does it"),
    Rule("README.md", r"^ray job submit .* jobs/(train|score_bucket|report)\.py", WALK),
    Rule(
        "README.md",
        r"import duckdb",
        "test_readme.py::test_duckdb_gives_the_cats_with_the_highest_scores",
    ),
    Rule("README.md", r"import polars", "test_readme.py::test_polars_counts_boxes_by_class"),
    Rule(
        "README.md",
        r"import pyarrow",
        "test_readme.py::test_pyarrow_lists_images_that_were_not_scored",
    ),
    Rule("README.md", r"LATERAL VIEW", reason="needs Spark; queries.md is run in DuckDB"),
    Rule("CONTRIBUTING.md", r"^make\b", reason="installs, or runs all tests; .ci/run does it"),
    Rule("CONTRIBUTING.md", r"^fastrcnn/ ", reason="a list of folders"),
    Rule(
        "CONTRIBUTING.md",
        r"resnet18",
        "test_contributing.py::test_the_backbone_of_the_page_is_built",
    ),
    Rule(
        "CONTRIBUTING.md",
        r"quarters",
        "test_contributing.py::test_the_proposer_of_the_page_gives_boxes",
    ),
    Rule(
        "CONTRIBUTING.md",
        r"BOX_TABLE",
        "test_contributing.py::test_the_label_format_of_the_page_is_read",
    ),
    Rule(
        "docs/ablations.md",
        r"jobs/ablate\.py",
        TUTORIAL,
        "hours; the tutorial's comparison has the same steps",
    ),
    _benchmark(
        "docs/ablations.md",
        "proposers",
        "benchmarks/test_proposers.py::test_every_data_set_has_lines",
    ),
    _benchmark(
        "docs/ablations.md", "recipe", "benchmarks/test_recipe.py::test_every_data_set_has_a_table"
    ),
    Rule("docs/archives.md", r"jobs/(score_bucket|pack|train)\.py", WALK),
    Rule("docs/archives.md", r"read_bytes\(\"tar", WALK),
    Rule(
        "docs/archives.md",
        r"image\.crop",
        "pipeline/test_archives_opened.py::test_the_recipe_of_the_docs_writes_the_best_boxes_as_pictures",
    ),
    Rule(
        "docs/archives.md",
        r"substr\(image_uri|ends_with\(image_uri",
        "pipeline/test_archives_opened.py::test_the_queries_of_the_docs_tell_archives_apart",
    ),
    _benchmark(
        "docs/archives.md",
        "archives",
        "benchmarks/test_archives.py::test_members_are_listed_and_read",
    ),
    _benchmark(
        "docs/benchmarks.md", "feed", "peers/test_daft.py::test_each_way_delivers_every_image"
    ),
    _benchmark(
        "docs/benchmarks.md",
        "score",
        "benchmarks/test_score.py::test_score_measures_and_writes_json",
    ),
    _benchmark(
        "docs/benchmarks.md",
        "detector",
        "benchmarks/test_detector.py::test_detector_prints_a_table_and_writes_json",
    ),
    _benchmark(
        "docs/benchmarks.md",
        "train",
        "benchmarks/test_train.py::test_all_loops_use_the_same_batches",
    ),
    _benchmark(
        "docs/benchmarks.md",
        "decode",
        "jobs/test_benchmark.py::test_decode_measures_every_installed_decoder",
    ),
    Rule("docs/benchmarks.md", r"jobs/draw_scenes\.py", TUTORIAL, "draws fewer images"),
    Rule(
        "docs/benchmarks.md",
        r"-m benchmarks\.device",
        "benchmarks/test_device.py::test_the_commands_of_the_docs_are_accepted",
        "needs a GPU",
    ),
    Rule("docs/benchmarks.md", r"^suppression: ", reason="the output of a command"),
    Rule("docs/counts.md", r"jobs/(sample|estimate)\.py", WALK),
    Rule(
        "docs/counts.md",
        r"tests\.pipeline\.counting\.simulation",
        "pipeline/counting/test_estimators.py::test_nominal_intervals_cover_and_totals_are_unbiased",
        "minutes; the test runs the simulation of 200 draws",
    ),
    Rule("docs/design.md", r"^flowchart", reason="a drawing"),
    Rule(
        "docs/labels.md",
        r"^(?!python)",
        "pipeline/annotations/test_labels_page.py::test_a_picture_of_the_page_is_read",
    ),
    Rule(
        "docs/labels.md",
        r"jobs/evaluate\.py",
        "pipeline/test_evaluate.py::test_a_split_file_names_the_images_to_evaluate_on",
        "the test makes the scores and the file",
    ),
    Rule("docs/lists.md", r"jobs/score_bucket\.py", WALK),
    Rule("docs/operations.md", r"jobs/(score_bucket|export)\.py", OPERATIONS),
    Rule("docs/operations.md", r"^apt-get download ceph", reason="a Ceph cluster, set up by hand"),
    Rule("docs/pixels.md", r"fastrcnn-ray (train|score)", WALK),
    Rule("docs/pixels.md", r"LIKE '%--range%'", WALK),
    Rule("docs/proposals.md", r"^ray job submit .* jobs/train\.py", WALK),
    _benchmark(
        "docs/proposals.md",
        "proposals",
        "jobs/test_benchmark.py::test_proposals_writes_a_table_a_plot_and_results",
    ),
    Rule(
        "docs/proposals.md",
        r"jobs/ablate\.py",
        TUTORIAL,
        "hours; the tutorial's comparison has the same steps",
    ),
    Rule(
        "docs/python.md",
        r"",
        "test_python_use.py::test_the_code_of_the_page_runs_from_images_to_a_report",
    ),
    Rule(
        "docs/queries.md", r"^import duckdb", "test_queries.py::test_pandas_gives_the_same_counts"
    ),
    Rule("docs/queries.md", r"\.read |scan_parquet|CREATE|read_parquet", _QUERY),
    Rule("docs/queries.md", r"jobs/compact\.py", TUTORIAL),
    Rule(
        "docs/queries.md",
        r"only_model|model_id, label|\(\"model_id\", \"label\"\)",
        "test_queries.py::test_each_tool_compares_two_models",
    ),
    Rule("docs/queries.md", r"", _QUERY),
    Rule("docs/recipe.md", r"jobs/train\.py", WALK),
    _benchmark(
        "docs/recipe.md",
        "first-training",
        "benchmarks/test_first_training.py::test_the_command_trains_measures_and_continues",
    ),
    _benchmark(
        "docs/scale.md",
        "scale",
        "benchmarks/test_scale.py::test_every_key_is_planned_and_gets_a_row",
    ),
    Rule("docs/scale.md", r"jobs/benchmark\.py memory", reason="hours: a million rows"),
    Rule(
        "docs/scores.md",
        r"^ *python .*(scenes|one-class)",
        reason="a measurement of ten minutes with the detector of make demo",
    ),
    Rule("docs/scores.md", r"^ *python .*(bccd|--checkpoint model )", WALK, "another data set"),
    _benchmark(
        "docs/scores.md",
        "other-images",
        "benchmarks/test_other_images.py::test_the_changed_scenes_have_the_same_names_and_labels",
    ),
    Rule("docs/scores.md", r"jobs/(sample|calibrate)\.py", WALK),
    Rule("docs/scores.md", r"matches\.parquet", WALK),
    _benchmark(
        "docs/benchmarks.md",
        "start-up",
        "benchmarks/test_start_up.py::test_each_step_of_a_submitted_job_takes_some_time",
    ),
    _benchmark(
        "docs/tiles.md", "sahi", "peers/test_sahi.py::test_boxes_of_tiles_agree_with_those_of_sahi"
    ),
    Rule("docs/suspects.md", r"jobs/(train|score_bucket|suspects|evaluate)\.py", WALK),
    Rule(
        "docs/suspects.md",
        r"-m pytest",
        "pipeline/results/test_suspicion.py::test_a_good_detector_finds_planted_faults",
    ),
    _benchmark(
        "docs/suspects.md",
        "suspects",
        "benchmarks/test_suspects.py::test_planted_faults_are_the_only_changes",
    ),
    Rule("docs/tiles.md", r"jobs/(train|score_bucket)\.py", WALK),
    Rule("docs/tiles.md", r"^small objects in large", reason="the output of a command"),
    Rule("docs/tiles.md", r"Detector", WALK),
    _benchmark(
        "docs/tiles.md",
        "tiles",
        "benchmarks/test_tiles.py::test_an_image_is_measured_with_and_without_tiles",
    ),
    Rule("docs/tutorial.md", r"jobs/", TUTORIAL),
    Rule(
        "docs/weights.md",
        r"--weights coco|--checkpoint coco",
        "pipeline/test_import_weights.py::test_the_checkpoint_has_91_classes_and_finds_torchvisions_boxes",
        "downloads torchvision's weights; the test makes such a file",
    ),
    Rule(
        "docs/weights.md",
        r"^pip install|timm",
        "fastrcnn/backbones/test_timm_models.py::test_a_network_trains_a_step_scores_and_is_saved",
        "downloads; the test makes such weights",
    ),
)


def pages() -> list[Path]:
    """The pages of the docs. The API page is made from docstrings."""
    found = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    docs = sorted((CHECKOUT / "docs").glob("*.md"))
    return found + [page for page in docs if page.name != "api.md"]


def items(page: Path) -> list[Item]:
    """The commands and code blocks of a page, from the top."""
    return sorted(_items(page), key=lambda item: item.line)


def _items(page: Path) -> Iterator[Item]:
    text, name = page.read_text(), page.relative_to(CHECKOUT).as_posix()

    def item(start: int, words: str) -> Item:
        return Item(name, text.count("\n", 0, start) + 1, words.strip())

    for block in FENCED.finditer(text):
        language, code = block[1], block[2]
        lines = list(re.finditer(r"(?:[^\n]*\\\n)*[^\n]+", code))
        runs = [line for line in lines if _program(line[0]) in PROGRAMS]
        if language or "<<" in code or not runs:
            yield item(block.start(), code)
        else:
            yield from (item(block.start(2) + line.start(), line[0]) for line in lines)
    outside = FENCED.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    for found in INDENTED.finditer(outside):
        yield item(found.start(), found[0])


def _program(line: str) -> str:
    words = [word for word in line.split() if not re.match(r"[A-Z_0-9]+=", word)]
    return words[0] if words else ""


def rules_of(item: Item) -> list[Rule]:
    """The rules that an item matches; the first one counts."""
    flat = item.text.replace("\\\n", " ")
    return [
        rule for rule in RULES if rule.page == item.page and re.search(rule.pattern, flat, re.M)
    ]


def walked(page: str) -> list[str]:
    """The commands and blocks of a page that `WALK` runs, in order."""
    return [
        item.text
        for item in items(CHECKOUT / page)
        if rules_of(item) and rules_of(item)[0].test == WALK
    ]


def main() -> None:
    """Print a line for each command or block."""
    for page in pages():
        for item in items(page):
            rule = (rules_of(item) or [Rule(item.page, "", reason="NO RULE")])[0]
            first = " ".join(item.text.split())[:70]
            why = f" ({rule.reason})" if rule.reason else ""
            sys.stdout.write(f"{item.page}:{item.line}: {first}: {rule.test or 'not run'}{why}\n")


if __name__ == "__main__":
    main()

from __future__ import annotations

from pathlib import Path

import pytest

from doratune.errors import ConfigError
from doratune.recipe import load_recipe, write_recipe
from doratune.recipe.load import parse_recipe

SHORTEST = "name: x\nmodel: {source: base}\ndata: {source: a.jsonl}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(text, "r.yaml")
    return str(caught.value).splitlines()


def test_the_shortest_recipe_has_every_default() -> None:
    recipe = parse_recipe(SHORTEST, "r.yaml")
    assert (recipe.seed, recipe.model.source, recipe.data.source) == (0, "base", "a.jsonl")
    assert (recipe.adapter.method, recipe.adapter.r, recipe.adapter.lora_alpha) == ("dora", 16, 32)


def test_numbers_are_read_as_users_write_them() -> None:
    recipe = parse_recipe(SHORTEST + "train: {learning_rate: 2e-4, epochs: 2}", "r.yaml")
    assert recipe.train.learning_rate == 0.0002
    assert recipe.train.epochs == 2.0


def test_all_problems_come_at_once_with_their_lines() -> None:
    text = (
        "name: a b\n"
        "model: {sourc: base}\n"
        "data:\n"
        "  source: a.jsonl\n"
        "  max_length: '3'\n"
        "train:\n"
        "  scheduler: cosin\n"
        "  learning_rate: 0\n"
        "colour: red\n"
    )
    lines = problems(text)
    assert lines[0] == "The recipe has 7 problems:"
    assert [line.partition(": ")[0].strip() for line in lines[1:]] == [
        f"r.yaml:{number}" for number in (1, 2, 2, 5, 7, 8, 9)
    ]
    message = "\n".join(lines)
    assert "name is 'a b'" in message
    assert "model.sourc is not a known key; did you mean 'source'?" in message
    assert "model.source is missing" in message
    assert "data.max_length is '3'; input should be a valid integer" in message
    assert "train.scheduler is 'cosin'; input should be 'cosine', 'linear' or 'constant'" in message
    assert "train.learning_rate is 0; input should be greater than 0" in message
    assert "colour is not a known key; known are name, seed, model" in message


def test_a_key_given_twice_is_a_problem() -> None:
    assert problems("name: y\n" + SHORTEST)[1] == "  r.yaml:2: name is given twice; remove one"
    lines = problems("name: x\nmodel: {source: base}\ndata:\n  source: a\n  source: b\n")
    assert lines[1] == "  r.yaml:5: data.source is given twice; remove one"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"r\.yaml holds nothing; it must be a mapping"),
        ("# only a comment\n", r"r\.yaml holds nothing"),
        ("- name: x\n", r"r\.yaml holds list; it must be a mapping"),
        ("name: x\n  bad: [\n", r"r\.yaml:2 is not valid YAML: mapping values are not allowed"),
        ("name: x\x00", r"r\.yaml is not valid YAML: unacceptable character #x0000"),
        (
            "name: x\nmodel:\ndata: {source: b}\n",
            r"r\.yaml:2: model is None; expected a mapping of source, revision, dtype, quantize$",
        ),
        (SHORTEST + "eval: 7\n", r"r\.yaml:4: eval is 7; expected a mapping of task, batch_size,"),
        (SHORTEST + "train: {learning_rate: .nan}", r"train\.learning_rate is nan"),
        (
            SHORTEST + "adapter: {target_modules: [q_proj, 3]}",
            r"r\.yaml:4: .*target_modules\[1\] is 3",
        ),
    ],
)
def test_refuses(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_recipe(text, "r.yaml")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "[{path: a, wight: 2}]",
            "3: data.source[0].wight is not a known key; did you mean 'weight'?",
        ),
        (
            "[{path: a}, {path: b, zzz: 2}]",
            "3: data.source[1].zzz is not a known key; known are path, weight, config, split, revision",
        ),
        ("[{weight: 2}]", "3: data.source[0].path is missing"),
        ("[{path: a, weight: 0}]", "3: data.source[0].weight is 0; input should be greater than 0"),
        (
            "[a.jsonl]",
            "3: data.source[0] is 'a.jsonl'; expected a mapping of path, weight, config, split, "
            "revision",
        ),
        ("[]", "3: data.source is []; list should have at least 1 item after validation, not 0"),
        ("3", "3: data.source is 3; input should be a valid string, or a list"),
        ("''", "3: data.source is ''; string should have at least 1 character"),
    ],
)
def test_a_value_or_a_list_has_one_problem_where_it_is_wrong(source: str, expected: str) -> None:
    """Of the two forms, only the one that was written is spoken of."""
    lines = problems(f"name: x\nmodel: {{source: base}}\ndata: {{source: {source}}}\n")
    assert lines == ["The recipe has 1 problem:", f"  r.yaml:{expected}"]


def test_a_problem_in_a_list_is_told_with_the_line_of_its_item() -> None:
    text = "name: x\nmodel: {source: base}\ndata:\n  source:\n  - path: a\n  - path: b\n    weight: x\n"
    assert problems(text)[1].startswith("  r.yaml:7: data.source[1].weight is 'x'; input should be")
    lines = problems(SHORTEST + "adapter: {target_modules: q_proj}\n")
    assert lines[1:] == [
        "  r.yaml:4: adapter.target_modules is 'q_proj'; input should be 'all-linear', or a list"
    ]


def test_a_list_of_sources_reads_back_the_same(tmp_path: Path) -> None:
    text = "name: x\nmodel: {source: base}\ndata: {source: [{path: a.csv, weight: 0.5}, {path: o/n}]}\n"
    recipe = parse_recipe(text, "r.yaml")
    assert [(s.path, s.weight) for s in recipe.data.sources] == [("a.csv", 0.5), ("o/n", 1.0)]
    write_recipe(tmp_path / "recipe.yaml", recipe)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no recipe '.*my\.yaml'.*doratune init"):
        load_recipe(tmp_path / "my.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: .*directory"):
        load_recipe(tmp_path)
    (tmp_path / "my.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"my\.yaml' cannot be read: 'utf-8' codec"):
        load_recipe(tmp_path / "my.yaml")


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    extra = "train: {learning_rate: 1e-5}\nadapter: {target_modules: [q_proj]}\n"
    recipe = parse_recipe(SHORTEST + extra, "r.yaml")
    write_recipe(tmp_path / "deep" / "recipe.yaml", recipe)
    assert load_recipe(tmp_path / "deep" / "recipe.yaml") == recipe
    assert "r: 16" in (tmp_path / "deep" / "recipe.yaml").read_text()


def test_off_is_a_word_and_true_is_not() -> None:
    """YAML 1.1, which PyYAML reads, takes ``off`` for false."""
    gates = "gates: {encoding: {action: off}}, labels_from_answers: true"
    recipe = parse_recipe(SHORTEST.replace("a.jsonl", f"a.jsonl, {gates}"), "r.yaml")
    assert recipe.data.gates.encoding.action == "off"
    assert recipe.data.labels_from_answers is True

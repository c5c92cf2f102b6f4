from __future__ import annotations

from doratune.evaluate.edge_cases import EDGE_CASES, edge_cases


def test_prompts_and_control_tokens_are_filled_in_and_not_interpreted() -> None:
    cases = {case.name: case.text for case in edge_cases(99, "Is {end} a {prompt}? {0}", "<|end|>")}
    assert len(cases) == len(EDGE_CASES) == 12
    assert cases["prompt injection"].startswith("Is {end} a {prompt}? {0}\n\nIgnore everything")
    assert cases["very long input"] == "Is {end} a {prompt}? {0}"
    assert cases["control tokens as words"].count("<|end|>") == 3
    assert "{" not in "".join(
        text for name, text in cases.items() if "{prompt}" not in text and name != "JSON wanted"
    )


def test_without_a_prompt_of_the_data() -> None:
    cases = edge_cases(3, None, "<|end|>")
    assert [case.name for case in cases] == ["prompt injection", "almost empty input", "small talk"]
    assert "Which of these is a fruit" in cases[0].text
    assert edge_cases(0, None, "<|end|>") == []

from __future__ import annotations

from doratune.record.export import ExportFile
from doratune.record.files import digest_json
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import RecordFile
from doratune.record.verification import FormsFile, ServedFile
from doratune.report import render
from doratune.report.records import read_records
from doratune.report.tables.exports import Exports, exports
from doratune.report.verdict import judge
from tests.report.html import prose
from tests.report.sample_exports import export_file, form, int4, logits

SPACE = "\N{NO-BREAK SPACE}"


def found(run: RunFolder) -> Exports:
    section = exports(read_records(run))
    assert section is not None
    return section


def test_forms_with_their_sizes(run: RunFolder) -> None:
    rows = {row.name: row for row in found(run).forms}
    assert list(rows) == ["peft", "lora", "gguf", "quantized", "bundle"]
    assert [name for name, row in rows.items() if row.is_approximate] == ["lora", "quantized"]
    assert rows["gguf"].size == f"138.1{SPACE}MiB"  # 144,811,584 bytes
    assert rows["gguf"].files[1] == ("Modelfile", f"512{SPACE}B", digest_json("Modelfile"))


def test_a_form_of_an_earlier_adapter_is_marked(run: RunFolder) -> None:
    record = RecordFile.read(run.record)
    record.stages["train"].outputs["adapter"] = digest_json("adapter")
    record.write(run.record)
    assert all(row.is_current for row in found(run).forms)
    assert "earlier adapter" not in render(run)
    record.stages["train"].outputs["adapter"] = digest_json("trained again")
    record.write(run.record)
    assert not any(row.is_current for row in found(run).forms)
    assert render(run).count("made from an earlier adapter: export again") == 5


def test_logits_beside_what_is_allowed(run: RunFolder) -> None:
    lora, gguf = found(run).logits
    assert (lora.form, lora.what, lora.against) == (
        "lora",
        "PEFT, float32",
        ("sidecar", "2,431 positions"),
    )
    assert (lora.passed, lora.perplexity) == (None, ("—", ""))
    assert all(bound == "" for _, (_, bound) in lora.figures)
    figures = dict(gguf.figures)
    assert (figures["mean_kl"], figures["max_kl"]) == (("0.0053", "≤ 0.012"), ("0.041", ""))
    assert figures["top1_agreement"] == (f"98.80{SPACE}%", f"≥ 91.20{SPACE}%")
    assert (gguf.passed, gguf.perplexity) == (True, ("24.46", "24.29"))


def test_forms_as_their_users_load_them(run: RunFolder) -> None:
    gguf, bundle = found(run).loaded
    assert (gguf.form, gguf.what, gguf.passed) == (
        "clauses-dora-q8_0.gguf",
        "llama.cpp, q8_0",
        True,
    )
    assert gguf.key == "forms.json: checks.clauses-dora-q8_0.gguf.logits"
    assert (bundle.form, bundle.passed) == ("bundle", True)
    assert "✗ crossed" not in render(run)
    file = FormsFile.read(run.forms)
    wrong = file.checks["bundle"]
    assert wrong.logits is not None
    wrong.logits.mean_kl = 0.5
    wrong.failures.append("bundle: mean KL is 0.5 nats; 0.0001 are allowed.")
    file.write(run.forms)
    page = render(run)
    assert "<li>bundle: mean KL is 0.5 nats; 0.0001 are allowed.</li>" in page
    assert page.count("✗ crossed") == 1
    verdict = judge(read_records(run))
    assert verdict.alarm
    assert verdict.details[-1] == "Exported, but not the trained model: bundle."
    run.forms.unlink()
    assert (found(run).loaded, found(run).failures) == ([], [])
    assert "Loaded from their folders" not in render(run)


def test_what_a_server_answers(run: RunFolder) -> None:
    assert "<h3>Served</h3>" not in render(run)
    served = ServedFile(
        url="localhost:8000",
        model="clauses",
        api="completions",
        dtype="bfloat16",
        answers=[],
        thresholds={},
        verdict="same",
        sentence="The server answers as the trained model does.",
    )
    served.write(run.served)
    page = render(run)
    assert "<p>The server answers as the trained model does.</p>" in page
    assert "served.json: verdict of 0 answers of clauses at localhost:8000" in page


def test_a_crossed_threshold_is_said(run: RunFolder) -> None:
    for crossed in ({"mean_kl": 1.0}, {"top1_agreement": 0.5}):
        allowed = {"mean_kl": 0.01, "top1_agreement": 0.9}
        check = logits("llama.cpp, f16", thresholds=allowed, mean_kl=0.001)
        wrong = check.model_copy(update=crossed)
        for passed, one in ((True, check), (False, wrong)):
            ExportFile(forms={"gguf": form("gguf", {}, logits=[one])}).write(run.exported)
            assert found(run).logits[0].passed is passed


def test_what_plain_lora_leaves_out(run: RunFolder) -> None:
    section = found(run)
    assert [(row.name, row.delta_error, row.is_written) for row in section.ranks] == [
        ("A and B as they are", f"18.5{SPACE}%", False),
        ("Rank 8", f"30.4{SPACE}%", False),
        ("Rank 16", f"18.0{SPACE}%", False),
        ("Rank 32", f"16.4{SPACE}%", True),
        ("Rank 64", f"14.2{SPACE}%", False),
    ]
    assert [layer.layer.split(".")[2] for layer in section.worst_layers] == [
        *("29", "28", "27", "26", "25")
    ]
    (task,) = section.tasks
    assert (task.what, task.trained, task.exported) == (
        "plain LoRA",
        ("112 of 120", f"93.3{SPACE}%"),
        ("110 of 120", f"91.7{SPACE}%"),
    )
    assert (task.lost, task.gained) == ("3", "1")


def test_tokens_and_notes(run: RunFolder) -> None:
    section = found(run)
    (tokens,) = section.tokens
    assert (tokens.num_texts, tokens.greedy) == (31, "32: the same")
    assert section.notes == [("bundle", "No engine was asked.")]
    turned = export_file()
    turned.forms["gguf"].tokens[0].greedy_equal = False
    turned.write(run.exported)
    assert found(run).tokens[0].greedy == "32: not the same, as after a near tie"


def test_nothing_exported(run: RunFolder) -> None:
    assert "Nothing was exported." not in prose(render(run))
    ExportFile().write(run.exported)
    assert "Nothing was exported." in prose(render(run))
    run.exported.unlink()
    assert exports(read_records(run)) is None
    assert "Nothing was exported." in prose(render(run))
    assert "<h3>Files</h3>" not in render(run)


def test_weights_in_few_bits(run: RunFolder) -> None:
    (row,) = found(run).quantized
    assert (row.type, row.about) == ("int4", "auto-round 0.13.2, groups of 128")
    assert row.size == (f"87.7{SPACE}MiB", f"34.2{SPACE}% of merged")
    assert row.weight_error == f"7.31{SPACE}%"
    assert row.rows_beyond == ("30", f"of 46.1{SPACE}k")
    assert row.clipped == ("150", f"of 26.5{SPACE}M")
    assert row.calibration == "128 examples"
    nearest = int4().model_copy(update={"calibration": None, "group_size": None})
    ExportFile(forms={"quantized": form("quantized", {}, quantized=[nearest])}).write(run.exported)
    (row,) = found(run).quantized
    assert row.about == "auto-round 0.13.2, one scale an output feature"
    assert row.calibration == "—"

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import bootstrap, linregress, pearsonr
from torch import Tensor
from transformers import AutoModelForCausalLM

from doratune.adapter import read_adapter
from doratune.adapter.origin import file_digests
from doratune.base import load_base
from doratune.compare.change import (
    changed,
    correlate_changes,
    matrix_changes,
)
from doratune.errors import AdapterError, ModelError
from doratune.recipe import Recipe, write_recipe
from doratune.record.comparison import Arm, MatrixChange
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ORIGIN, AdapterOrigin
from tests.adapter.models import gpt2
from tests.ship.adapters import edit_tensors, peft_merged, save_adapter
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("change") / "base")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DORATUNE_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


def run_folder(path: Path, quantize: str | None = None, **adapter: object) -> RunFolder:
    run = RunFolder(path)
    path.mkdir(parents=True)
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "model": {"source": "base", "quantize": quantize},
            "data": {"source": "d.jsonl"},
            "adapter": adapter,
        }
    )
    write_recipe(run.recipe, recipe)
    return run


def signed(run: RunFolder) -> None:
    """Makes the record speak of the adapter's files as they are, as training does."""
    origin = AdapterOrigin.read(run.adapter / ORIGIN)
    origin.model_copy(update={"files": file_digests(run.adapter)}).write(run.adapter / ORIGIN)


def truth(before: Tensor, after: Tensor) -> tuple[float, float]:
    """The definition, in float64."""
    before, after = before.double(), after.double()
    magnitude = (after.norm(dim=1) - before.norm(dim=1)).abs().mean().item()
    return magnitude, (1 - torch.cosine_similarity(before, after, dim=1)).mean().item()


@pytest.mark.parametrize(("arm", "dora"), [("dora", True), ("lora", False)])
def test_adapters_against_pefts_merged_weights(
    arm: Arm, dora: bool, base: Path, tmp_path: Path
) -> None:
    run = run_folder(tmp_path / "run")
    save_adapter(base, run.adapter, use_dora=dora)
    signed(run)
    changes = matrix_changes(run, base, arm, seed=3)
    assert len(changes) == 14
    assert {(change.arm, change.seed) for change in changes} == {(arm, 3)}
    before, after = load_file(base / "model.safetensors"), peft_merged(base, run.adapter)
    for change in changes:
        magnitude, direction = truth(
            before[f"{change.layer}.weight"], after[f"{change.layer}.weight"]
        )
        assert change.magnitude_change == pytest.approx(magnitude, rel=1e-5)
        assert change.direction_change == pytest.approx(direction, rel=1e-5)


def fully_tuned(base: Path, path: Path) -> dict[str, Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(path)
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    ("targets", "num"), [("all-linear", 14), (["q_proj", "down_proj"], 4)], ids=["all", "some"]
)
def test_full_fine_tuning_against_the_two_models(
    targets: object, num: int, base: Path, tmp_path: Path
) -> None:
    """The same matrices that an adapter would have had: neither embeddings nor the head."""
    run = run_folder(tmp_path / "run", method="full", target_modules=targets)
    after = fully_tuned(base, run.adapter)
    before = load_file(base / "model.safetensors")
    changes = matrix_changes(run, base, "full", seed=0)
    assert len(changes) == num
    for change in changes:
        magnitude, direction = truth(
            before[f"{change.layer}.weight"], after[f"{change.layer}.weight"].detach()
        )
        assert change.magnitude_change == pytest.approx(magnitude, rel=1e-9)
        assert change.direction_change == pytest.approx(direction, rel=1e-9)


@pytest.mark.parametrize("arm", ["dora", "full"])
def test_weights_that_are_stored_transposed(arm: Arm, tmp_path: Path) -> None:
    """GPT-2's (in, out) weights, whose checkpoint leaves out the model's own prefix."""
    base = tmp_path / "base"
    gpt2().save_pretrained(base)
    run = run_folder(tmp_path / "run", method=arm)
    if arm == "full":
        fully_tuned(base, run.adapter)
        tensors = load_file(run.adapter / "model.safetensors")
    else:
        save_adapter(base, run.adapter, fan_in_fan_out=True)
        signed(run)
        tensors = peft_merged(base, run.adapter)
    before = load_file(base / "model.safetensors")
    changes = matrix_changes(run, base, arm, seed=0)
    assert len(changes) == 8
    for change in changes:
        name = f"{change.layer}.weight"
        short = name if name in before else name.removeprefix("transformer.")
        after = tensors[name] if name in tensors else tensors[short]
        magnitude, direction = truth(before[short].T, after.T)
        assert change.magnitude_change == pytest.approx(magnitude, rel=1e-5)
        assert change.direction_change == pytest.approx(direction, rel=1e-5)


def held(layer: Any) -> Tensor:
    """What a quantised layer stands for, by bitsandbytes' own functions."""
    functional = pytest.importorskip("bitsandbytes").functional
    if hasattr(layer.weight, "SCB"):
        return functional.int8_vectorwise_dequant(layer.weight.CB, layer.weight.SCB)
    return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
@pytest.mark.parametrize("model", ["linear", "Conv1D"])
def test_a_quantised_base_is_what_its_layers_multiply_with(
    tmp_path: Path, model: str, quantize: Literal["nf4", "int8"]
) -> None:
    """transformers quantises GPT-2's (in, out) weights transposed, in blocks along the inputs."""
    pytest.importorskip("bitsandbytes")
    base = tmp_path / "base"
    if model == "linear":
        save_tiny(base, hidden_size=64, intermediate_size=128)
    else:
        gpt2(n_embd=64).save_pretrained(base)
    run = run_folder(tmp_path / "run", quantize=quantize)
    save_adapter(base, run.adapter, fan_in_fan_out=model == "Conv1D")
    signed(run)
    quantised = load_base(base, "float32", quantize)
    adapter = read_adapter(run.adapter).layers
    changes = matrix_changes(run, base, "qdora", seed=0)
    assert {change.layer for change in changes} == set(adapter)
    for change in changes:
        W = held(quantised.get_submodule(change.layer)).double()
        delta = adapter[change.layer]
        V = W + delta.scaling * delta.B.double() @ delta.A.double()
        magnitude, direction = truth(W, delta.magnitude[:, None] * V / V.norm(dim=1, keepdim=True))
        assert change.magnitude_change == pytest.approx(magnitude, rel=1e-5)
        assert change.direction_change == pytest.approx(direction, rel=1e-5)


def test_pieces_of_a_matrix_and_its_zero_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    before, after = (torch.randn(10, 7, generator=draw) for _ in range(2))
    before[2] = 0
    after[4] = 0
    magnitude, direction = changed(before, after)
    assert direction[2] == direction[4] == 0
    assert magnitude[2] == after[2].double().norm()
    assert torch.isfinite(direction).all()
    monkeypatch.setattr("doratune.compare.change._PIECE_ELEMENTS", 21)
    for whole, pieces in zip((magnitude, direction), changed(before, after), strict=True):
        assert torch.equal(whole, pieces)


def test_small_changes_keep_their_digits() -> None:
    """An angle of 1e-6: one minus a float32 cosine would be 0."""
    before = torch.tensor([[1.0, 0.0]])
    _, direction = changed(before, torch.tensor([[1.0, 1e-6]]))
    assert direction.item() == pytest.approx(0.5e-12, rel=1e-6)


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    save_adapter(base, run.adapter)
    other = save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="was trained on"):
        matrix_changes(run, other, "dora", seed=0)


def test_a_full_model_without_a_weight_is_refused(base: Path, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", method="full")
    fully_tuned(base, run.adapter)
    file = run.adapter / "model.safetensors"
    lost = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(file, **{lost.replace(".", "__"): None})
    with pytest.raises(ModelError, match=f"adapter holds no {lost}"):
        matrix_changes(run, base, "full", seed=0)


def test_a_full_model_of_another_shape_is_refused(base: Path, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", method="full")
    save_tiny(run.adapter, intermediate_size=40)
    with pytest.raises(ModelError, match=r"shape \(40, 32\) in .* and of \(48, 32\) in"):
        matrix_changes(run, base, "full", seed=0)


def change(arm: Arm, layer: str, direction: float, magnitude: float, seed: int = 0) -> MatrixChange:
    return MatrixChange(
        arm=arm, layer=layer, seed=seed, magnitude_change=magnitude, direction_change=direction
    )


def test_correlation_against_scipy() -> None:
    rng = np.random.default_rng(0)
    direction = rng.random(30)
    magnitude = 2 * direction + rng.normal(0, 0.4, 30)
    (found,) = correlate_changes(
        [
            change("lora", f"{i}.q_proj", d, m)
            for i, (d, m) in enumerate(zip(direction, magnitude, strict=True))
        ],
        seed=0,
    )
    assert (found.arm, found.kind, found.num_matrices) == ("lora", "all", 30)
    assert found.correlation.value == pytest.approx(pearsonr(direction, magnitude).statistic)
    assert found.slope == pytest.approx(linregress(direction, magnitude).slope)
    peer = bootstrap(
        (direction, magnitude),
        lambda x, y, axis: pearsonr(x, y, axis=axis).statistic,
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=1,
    ).confidence_interval
    # 1000 draws know a 2.5 % quantile to about 0.5 % of the draws.
    assert (found.correlation.low, found.correlation.high) == pytest.approx(peer, abs=0.03)


def test_kinds_are_told_apart() -> None:
    """Within each kind they fall together, over both they rise together."""
    rows = [("q_proj", 0.1 + i / 100, 0.2 - i / 100) for i in range(6)]
    rows += [("up_proj", 0.5 + i / 100, 0.9 - i / 100) for i in range(6)]
    changes = [change("dora", f"{i}.{k}", d, m) for i, (k, d, m) in enumerate(rows)]
    found = {c.kind: c for c in correlate_changes(changes, seed=0)}
    assert list(found) == ["all", "q_proj", "up_proj"]
    assert found["all"].correlation.value > 0.9
    assert found["q_proj"].correlation.value == pytest.approx(-1)
    assert found["up_proj"].slope == pytest.approx(-1)


def test_seeds_are_averaged_and_arms_kept_apart() -> None:
    changes = [
        change(arm, f"{i}.q_proj", i + noise, sign * i, seed)
        for arm, sign in (("lora", 1.0), ("full", -1.0))
        for i in range(5)
        for seed, noise in enumerate((0.3, -0.3))
    ]
    lora, full = correlate_changes(changes, seed=0)
    assert (lora.arm, full.arm) == ("lora", "full")
    assert lora.correlation.value == pytest.approx(1)
    assert full.correlation.value == pytest.approx(-1)
    assert lora.num_matrices == 5


def test_too_little_for_a_correlation() -> None:
    four = [change("lora", f"{i}.q_proj", i, i) for i in range(4)]
    assert correlate_changes(four, seed=0) == []
    still = [change("full", f"{i}.q_proj", i, 0.0) for i in range(9)]
    assert correlate_changes(still, seed=0) == []

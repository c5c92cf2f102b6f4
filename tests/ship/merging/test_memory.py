"""What merging takes of memory, measured in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ship.adapters import save_adapter
from tests.tiny import save_tiny

# The peak of the resident set is set back right before the merge, so that it is the merge's own.
# It counts pages of mapped files too, which are no memory that the merge needs: an upper bound.
MEASURE = """
import sys
from pathlib import Path
from doratune.base import fingerprint
from doratune.ship.merging.checkpoint import plan_merge
from doratune.ship.merging.merge import merge

def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) * 1024

base, adapter, small, small_adapter, target = map(Path, sys.argv[1:6])
merge(small, small_adapter, target, "bfloat16")  # what the libraries allocate once
fingerprint(base)
plan = plan_merge(base, adapter)
del plan
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
merge(base, adapter, target, "bfloat16")
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("target_modules", ["embed_tokens", "all-linear"])
def test_the_peak_is_the_adapter_and_blocks(tmp_path: Path, target_modules: str) -> None:
    """For an embedding of 102 MB in float32, and three matrices of 17 MB in each of 8 layers."""
    sizes = {
        "vocab_size": 50_000, "hidden_size": 512, "intermediate_size": 8192, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 1,
    }  # fmt: skip
    base = save_tiny(tmp_path / "base", torch.float32, **sizes)
    config = {"target_modules": [target_modules] if "_" in target_modules else target_modules}
    adapter = save_adapter(base, tmp_path / "adapter", **config)
    small = save_tiny(tmp_path / "small")
    small_adapter = save_adapter(small, tmp_path / "small_adapter")
    folders = [base, adapter, small, small_adapter, tmp_path / "merged"]
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, *map(str, folders)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = int(found.stdout.split()[-1])
    largest = 50_000 * 512 * 4
    of_adapter = (adapter / "adapter_model.safetensors").stat().st_size
    total = (base / "model.safetensors").stat().st_size
    print(f"peak {peak / 1e6:.0f} MB, adapter {of_adapter / 1e6:.0f}, largest {largest / 1e6:.0f}")
    assert total > 5 * largest
    assert peak <= 1.2 * largest + 2 * of_adapter

"""What is known of an adapter folder, and what a store of adapters keeps."""

from __future__ import annotations

from typing import Literal

from doratune.record.schemas import AdapterOrigin, Record, RunFile


class LayerFacts(Record):
    """One adapted layer."""

    layer: str
    method: Literal["dora", "lora"]
    r: int
    num_experts: int = 1
    """Fused in one weight; each has factors of its own, of rank r."""
    scaling: float | None
    """Factor of ``B A``; None where the configuration does not say it."""
    out_features: int
    in_features: int
    dtype: str
    """Of A and B."""
    magnitude_dtype: str | None = None
    magnitude_min: float | None = None
    magnitude_max: float | None = None
    ratio_min: float | None = None
    """Of ``m / ‖W‖`` over output features; None without a base."""
    ratio_max: float | None = None


class AdapterFacts(Record):
    """What ``doratune inspect`` found."""

    path: str
    method: Literal["dora", "lora", "full"] | None = None
    """None where the folder cannot be read."""
    base: str | None = None
    """The base that the adapter names."""
    compared_with: str | None = None
    """The base it was compared with."""
    belongs: Literal["fingerprint", "magnitudes", "no evidence"] | None = None
    """By what the adapter is known to belong to that base."""
    distance: float | None = None
    """Of the magnitudes from that base's norms, by their own spread."""
    target_modules: list[str] | str = []
    saved_modules: list[str] = []
    num_parameters: int = 0
    num_bytes: int = 0
    origin: AdapterOrigin | None = None
    layers: list[LayerFacts] = []
    notes: list[str] = []
    problems: list[str] = []
    """For what it would be refused."""


class StoredVersion(Record):
    """One version of an adapter in a store."""

    version: int
    added_at: str
    source: str
    """The folder it was copied from."""
    files: dict[str, str]
    """SHA-256 of its files, by name."""
    method: Literal["dora", "lora", "full"]
    base: str | None
    base_fingerprint: str | None
    """None for adapters made elsewhere."""
    figures: dict[str, float] = {}
    parents: list[str] = []


class StoreEvent(Record):
    """Something that was done with an adapter."""

    at: str
    action: Literal["attach", "detach", "rollback"]
    version: int | None
    """The version attached from then on."""
    base: str | None = None
    base_fingerprint: str | None = None
    forced: str | None = None
    """The objection that ``--force`` overruled."""


class StoredAdapter(RunFile):
    """``<store>/<name>/versions.json``."""

    name: str
    versions: list[StoredVersion] = []
    events: list[StoreEvent] = []

    @property
    def attached(self) -> StoreEvent | None:
        """The event by which the current version was attached; None where there is none."""
        last = self.events[-1] if self.events else None
        return last if last is not None and last.version is not None else None


class MergedParent(Record):
    """An adapter that was merged with others."""

    name: str
    """Of its folder."""
    method: Literal["dora", "lora", "full"]
    weight: float
    files: dict[str, str]
    """SHA-256 of its files, by name."""


class CombinedFile(RunFile):
    """``merge.json`` in a model that was made of several adapters."""

    how: Literal["weighted", "in turn"]
    """``W + sum_i weight_i (W'_i - W)``, or each on the model that those before it made."""
    base: str
    """Name of the base's folder."""
    base_fingerprint: str
    dtype: str
    doratune: str
    """Version that merged it."""
    parents: list[MergedParent]

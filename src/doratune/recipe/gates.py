"""What the data gates of a recipe may say: one section a gate, with an action and thresholds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from doratune.recipe.section import Positive, Section, Share

Action = Literal["off", "report", "drop", "fail"]
"""``report`` counts and names what a gate finds, ``drop`` leaves it out, ``fail`` stops the stage."""


class StructureGate(Section):
    """Lines that cannot be read and rows that do not fit the format."""

    action: Literal["drop", "fail"] = "fail"
    """``fail`` lists the first of them with their lines; ``drop`` leaves them out."""


class EncodingGate(Section):
    """Control characters, replacement characters, invisible text, text decoded wrongly."""

    action: Action = "report"


class LengthGate(Section):
    """Examples so short that they teach little, or so long that they nearly do not fit."""

    action: Action = "report"
    min_tokens: Annotated[int, Field(ge=0)] = 30
    """Shorter examples are found, prompt and answer together."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Examples longer than this share of ``max_length`` are found."""


class DuplicatesGate(Section):
    """Examples that say exactly the same; the first one stays."""

    action: Action = "drop"


class NearDuplicatesGate(Section):
    """Examples with nearly the same words (MinHash over word 3-grams)."""

    action: Action = "report"
    """``drop`` keeps the longest of a group. Groups never cross splits, whatever the action."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Jaccard similarity from which two examples are nearly the same."""


class ConflictsGate(Section):
    """One input with different labels."""

    action: Action = "report"
    """``drop`` leaves out every example of such an input: nothing says which label is right."""


class LabelsGate(Section):
    """Label counts: too rare, or too uneven. Drops nothing: see ``data.min_label_count``."""

    action: Literal["off", "report", "fail"] = "report"
    min_count: Positive = 10
    """Labels with fewer examples are found."""
    max_imbalance: Annotated[float, Field(ge=1)] = 20
    """Found when the commonest label has more than so many times the examples of the rarest."""


class QualityGate(Section):
    """Answers that the base model finds extremely surprising or extremely obvious."""

    action: Action = "off"
    """Costs one forward pass of the base model over every example, twice."""
    quantile: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Share of examples found at each bad end."""


class RelevanceGate(Section):
    """Examples unlike the seed documents (hashed n-gram log-ratio, as in DSIR)."""

    action: Action = "report"
    seeds: list[str] = []
    """Files of documents from the domain; without them the gate does not run."""
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of examples, the least alike, that is found."""


class LanguageGate(Section):
    """Examples in another language than expected."""

    action: Action = "report"
    languages: list[str] = []
    """ISO 639-1 codes; empty for the commonest one found."""
    min_confidence: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Guesses below it, and texts under 40 characters, count as no guess."""


class PersonalDataGate(Section):
    """E-mail addresses, telephone numbers, account and card numbers, keys and passwords."""

    action: Literal["off", "report", "mask", "drop", "fail"] = "report"
    """``mask`` puts ``[EMAIL]``, ``[PHONE]``, ``[KEY]`` and so on in their place."""


class LeakageGate(Section):
    """Training examples that share an n-gram of words with held-out ones or with evaluation sets."""

    action: Action = "report"
    """``drop`` leaves out the training example."""
    ngram: Positive = 13
    """Words in a row; 13 is the usual rule."""
    evaluation_sets: list[str] = []
    """Files of examples that training must not have seen."""


class ReviewGate(Section):
    """A person's verdict on the review sample, demanded before training."""

    action: Literal["off", "fail"] = "off"
    """``fail`` refuses to train before ``doratune review`` is finished and good enough."""
    share: Share = 0.05
    """Share of examples in the review sample."""
    min_examples: Positive = 25
    """Smallest review sample, if there are so many examples."""
    max_examples: Positive = 50
    """Largest review sample."""
    max_rejected: Share = 0.1
    """Largest share of the sample that may be rejected."""


class GatesSection(Section):
    """What is looked for in the data, and what happens to what is found."""

    structure: StructureGate = StructureGate()
    encoding: EncodingGate = EncodingGate()
    length: LengthGate = LengthGate()
    duplicates: DuplicatesGate = DuplicatesGate()
    near_duplicates: NearDuplicatesGate = NearDuplicatesGate()
    conflicts: ConflictsGate = ConflictsGate()
    labels: LabelsGate = LabelsGate()
    quality: QualityGate = QualityGate()
    relevance: RelevanceGate = RelevanceGate()
    language: LanguageGate = LanguageGate()
    personal_data: PersonalDataGate = PersonalDataGate()
    leakage: LeakageGate = LeakageGate()
    review: ReviewGate = ReviewGate()

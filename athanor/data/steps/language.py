"""Language identification without downloads: by script where that decides, by words or py3langid where it does not.

Han with kana is Japanese, Hangul Korean, Han alone Chinese: character counts decide these over the whole text, at the
speed of memory. Latin script whose sampled words are full of English function words is English. Only the rest goes to
py3langid (naive Bayes over byte n-grams, 97 languages; Lui and Baldwin, ACL 2012), which reads a bounded sample.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Verdict
from athanor.data.steps.code import is_code, look_like_code
from athanor.data.steps.prose import prose
from athanor.data.steps.rules import Rules, on_subset, share
from athanor.data.steps.words import char_counts
from athanor.recipe.steps.clean import LanguageOptions

#: A Han character is about a word of two thirds; a Latin word has about five letters: what mixed text is weighed by.
_LETTERS_PER_HAN = 3
#: From this share of Han, kana and Hangul in letters, text whose letters are mostly Latin is judged by its prose alone.
_MIXED = 0.02
#: Share of kana in Han and kana from which text is Japanese: Japanese prose has over a half, Chinese quoting it little.
_JAPANESE_KANA = 0.08
#: Function words that hardly any other language has, and their share in English prose.
_FUNCTION_WORDS = """
the and of to that is was for with are this which from have his be not by they you it your our their its will can has
had been were would who what when there these than into about if more
"""
_ENGLISH = frozenset(_FUNCTION_WORDS.split())
_ENGLISH_PROSE = 0.25
#: From these a sample is English: share, different ones, words in all.
_ENGLISH_SHARE, _ENGLISH_KINDS, _MIN_WORDS = 0.15, 4, 20
#: Wu is written in standard Chinese's characters, and the model takes Chinese among Latin letters for it.
_SAME = {"wuu": "zh"}


class Language(Step):
    """Sets the ``language`` of documents; keeps those wanted. Code is not judged."""

    name: ClassVar[str] = "language"
    edits: ClassVar[bool] = True
    exports: ClassVar[tuple[str, ...]] = ("script",)
    fields: ClassVar[dict[str, pa.DataType]] = {
        "language": pa.string(),
        "confidence": pa.float64(),
        "script": pa.string(),  # Chinese only: hans, hant
        "letters": pa.int64(),
        "han_share": pa.float64(),  # of letters
        "kana_share": pa.float64(),
        "hangul_share": pa.float64(),
        "latin_share": pa.float64(),
    }

    options: LanguageOptions

    def compute_key(self) -> Any:
        """The model, what it reads and which documents are left out."""
        options = self.options
        return [2, version("py3langid"), list(options.code_domains), options.min_letters, options.sample_bytes]

    def prepare(self) -> None:
        """Loads the model."""
        _identifier()

    def annotate(self, docs: Docs) -> Columns:
        """Language, confidence and shares of scripts; null for code."""
        prose = ~(is_code(docs, self.options.code_domains) | look_like_code(docs))
        return on_subset(docs, prose, self._measure, self.fields)

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Languages as told with enough confidence, else as the source says; reasons for those not wanted."""
        options, rules = self.options, Rules(columns)
        told = pa.array(columns["language"]).to_pylist()
        sure = rules.figures("confidence") >= options.min_confidence
        old = docs.column("language")
        found = [str(told[i] if sure[i] and told[i] != "und" else old[i]) for i in range(len(docs))]
        judged = np.array([language is not None for language in told], dtype=bool)
        if options.languages is not None:
            wanted = {*options.languages, *(["und"] if options.keep_unknown else [])}
            other = judged & np.array([language not in wanted for language in found], dtype=bool)
            rules.flagged(other, lambda i: f"language not wanted: {found[i]}")
        if options.chinese is not None:
            script = pa.array(columns["script"]).to_pylist()
            other = np.array([value not in (None, options.chinese) for value in script], dtype=bool)
            rules.flagged(other, lambda i: f"Chinese script not wanted: {script[i]}")
        languages = [found[i] if judged[i] else old[i] for i in range(len(docs))]
        return Verdict(rules.reasons(len(docs)), columns={"language": languages})

    def _measure(self, docs: Docs) -> Columns:
        counts = char_counts(docs)
        letters = counts["letter"]
        weight = letters + (_LETTERS_PER_HAN - 1) * (counts["han"] + counts["kana"] + counts["hangul"])
        languages, confidence = _by_script(counts)
        mixed = (languages == "") & (counts["han"] + counts["kana"] + counts["hangul"] > _MIXED * letters)
        if mixed.any():  # code and addresses are Latin in every language
            languages[mixed], confidence[mixed] = _by_script(char_counts(prose(docs.take(mixed))))
        few = weight < self.options.min_letters
        languages[few], confidence[few] = "und", 0.0
        data, offsets = docs.utf8
        for i in np.flatnonzero(languages == "").tolist():
            sample = _sample(data[offsets[i] : offsets[i + 1]], self.options.sample_bytes)
            languages[i], confidence[i] = _by_words(sample) or _by_model(sample)
        return {
            "language": languages.tolist(),
            "confidence": confidence,
            "script": _chinese_script(languages, counts),
            "letters": letters,
            **{f"{name}_share": share(counts[name], letters) for name in ("han", "kana", "hangul", "latin")},
        }


def _by_script(
    counts: dict[str, npt.NDArray[np.int64]],
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float64]]:
    """(language, confidence) of each document; "" where the script does not decide."""
    han, kana, hangul = (counts[name].astype(np.float64) for name in ("han", "kana", "hangul"))
    other = counts["letter"] - counts["han"] - counts["kana"] - counts["hangul"]
    dense = _LETTERS_PER_HAN * (han + kana + hangul)
    total = np.maximum(dense + other, 1)
    languages = np.full(len(han), "", dtype=object)
    japanese = kana > _JAPANESE_KANA * (han + kana)
    korean = hangul > han + kana
    by_script = dense > other
    languages[by_script] = "zh"
    languages[by_script & japanese] = "ja"
    languages[by_script & korean] = "ko"
    return languages, np.where(by_script, dense / total, 0.0)


def _chinese_script(languages: npt.NDArray[np.object_], counts: dict[str, npt.NDArray[np.int64]]) -> list[str | None]:
    """hans or hant for Chinese, by the characters that only one of GB 2312 and Big5 has."""
    hant = counts["traditional"] > counts["simplified"]
    scripts = np.where(hant, "hant", "hans").tolist()
    return [script if language == "zh" else None for script, language in zip(scripts, languages, strict=True)]


def _sample(raw: npt.NDArray[np.uint8], n_bytes: int) -> str:
    """The text, or three pieces of a long one: from the beginning, the middle and towards the end."""
    if len(raw) <= n_bytes:
        return raw.tobytes().decode("utf-8", "ignore")
    piece = n_bytes // 3
    starts = (0, len(raw) // 2, max(0, len(raw) - 2 * piece))
    return " ".join(raw[at : at + piece].tobytes().decode("utf-8", "ignore") for at in starts)


def _by_words(sample: str) -> tuple[str, float] | None:
    """English, if the sample is ASCII and full of its function words."""
    words = sample.lower().split()
    hits = [word for word in words if word in _ENGLISH]
    if len(words) < _MIN_WORDS or len(hits) < _ENGLISH_SHARE * len(words) or len(set(hits)) < _ENGLISH_KINDS:
        return None
    return "en", min(1.0, len(hits) / (_ENGLISH_PROSE * len(words)))


def _by_model(sample: str) -> tuple[str, float]:
    language, confidence = _identifier().classify(sample)
    return _SAME.get(language, str(language)), float(confidence)


@cache
def _identifier() -> Any:
    """py3langid with probabilities, loaded once a process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

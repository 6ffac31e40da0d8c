"""Questions to a language model behind an OpenAI-compatible endpoint, answers checked and kept by content."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from athanor.data.chat_endpoint import AskError, address, key_from, post
from athanor.data.steps.quality_examples import AXES
from athanor.data.steps.quality_train import cache_folder
from athanor.files import write_atomic
from athanor.recipe.steps.quality import JudgeOptions

#: Grows when the question changes: older answers are asked for again.
PROMPT_VERSION = 1
_PROMPTS = {
    "en": (
        "You rate a text as training material for a language model. Give each of four axes a whole number, 0 to 10:\n"
        "cleanliness: free of page furniture, advertising, markup remains, garbled characters;\n"
        "fluency: grammatical, ordered, coherent sentences (of code: well-formed and readable);\n"
        "educational: how much a reader learns from it about a subject;\n"
        "density: how much it says for its length, without padding or repetition.\n"
        "Answer with one JSON object and nothing else: "
        '{"cleanliness": n, "fluency": n, "educational": n, "density": n}\n\n'
        "Text between the lines:\n-----\n"
    ),
    "zh": (
        "请评价下面的文本作为语言模型训练语料的质量。对四个维度各给出0到10的整数分：\n"
        "cleanliness（洁净度）：没有网页导航、广告、标记残留和乱码；\n"
        "fluency（流畅度）：语句通顺、有条理、前后连贯（若为代码：书写规范、易读）；\n"
        "educational（教育价值）：读者能从中学到多少知识；\n"
        "density（信息密度）：就篇幅而言信息量大，没有空话和重复。\n"
        '只回答一个JSON对象，不要输出其他内容：{"cleanliness": n, "fluency": n, "educational": n, "density": n}\n\n'
        "两条横线之间为文本：\n-----\n"
    ),
}
_HAN = re.compile(r"[一-鿿]")
_OBJECT = re.compile(r"\{[^{}]*\}")
_BACKOFF_S = 0.5


@dataclass(frozen=True)
class Answer:
    """Scores of the axes, 0 … 1, or why there are none."""

    scores: dict[str, float] | None
    reason: str = ""


def question(text: str, max_chars: int) -> str:
    """What is asked of a text: in Chinese where it is Chinese. Only its first ``max_chars`` characters are sent."""
    shown = text[:max_chars]
    language = "zh" if len(_HAN.findall(shown)) > 0.15 * max(len(shown), 1) else "en"
    return f"{_PROMPTS[language]}{shown}\n-----"


def parse(content: str) -> dict[str, float] | None:
    """The four scores of an answer as 0 … 1, or None: a JSON object with a number 0 … 10 for every axis."""
    for candidate in reversed(_OBJECT.findall(content)):
        try:
            found = json.loads(candidate)
            values = {axis: found[axis] for axis in AXES}
        except (ValueError, KeyError):
            continue
        if all(_is_score(value) for value in values.values()):
            return {axis: value / 10 for axis, value in values.items()}
    return None


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 10


class Client:
    """Asks, tries again, and keeps answers in a folder, so that no content is paid for twice."""

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options
        self.asked = 0
        named = hashlib.sha256(json.dumps([PROMPT_VERSION, options.model, options.max_chars]).encode()).hexdigest()[:16]
        self._folder = cache_folder(options.cache_dir) / "judge" / named
        self._address = address(options.endpoint, "data.steps: judge.endpoint")
        self._key = key_from(options.api_key_env)

    def ask(self, key: str, text: str) -> Answer:
        """The scores of a text whose content hash is ``key``: kept ones, else the endpoint's."""
        kept = self._kept(key)
        if kept is not None:
            return Answer(kept)
        reason = ""
        for attempt in range(self.options.retries + 1):
            if attempt:
                time.sleep(_BACKOFF_S * 2 ** (attempt - 1))
            self.asked += 1
            try:
                content, _ = post(self._address, self._body(text), self._key, self.options.timeout_s)
            except AskError as failure:
                reason = failure.reason
                if not failure.again:
                    break
                continue
            scores = parse(content)
            if scores is not None:
                self._keep(key, scores)
                return Answer(scores)
            reason = "answer is not the JSON that was asked for"
        return Answer(None, reason)

    def _body(self, text: str) -> dict[str, Any]:
        prompt = question(text, self.options.max_chars)
        messages = [{"role": "user", "content": prompt}]
        return {"model": self.options.model, "messages": messages, "temperature": 0, "max_tokens": 200}

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _kept(self, key: str) -> dict[str, float] | None:
        try:
            found = json.loads(self._path(key).read_text("utf-8"))
            return {axis: float(found[axis]) for axis in AXES}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self, key: str, scores: dict[str, float]) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(scores))

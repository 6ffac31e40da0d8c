"""Language identification: scripts, words, model, code left alone, verdicts by threshold."""

from __future__ import annotations

import pytest

from athanor.data.steps.base import Docs, as_arrays, run_in_memory
from athanor.data.steps.language import Language
from athanor.recipe.steps.clean import LanguageOptions

SAMPLES = {
    "en": "The river rose during the night and the farmers moved their animals to the hills before dawn.",
    "zh": "昨天夜里河水上涨了，农民们在洪水到达公路之前把牲畜赶到了山上，所有人都平安无事。",
    "ja": "昨夜、川の水位が上がり、農家の人々は水が道路に届く前に家畜を丘の上へ移動させました。",
    "ko": "어젯밤 강물이 불어나서 농부들은 물이 도로에 닿기 전에 가축들을 언덕 위로 옮겼습니다.",
    "de": "In der Nacht stieg der Fluss, und die Bauern brachten ihre Tiere vor Tagesanbruch auf die Hügel.",
    "fr": "La rivière est montée pendant la nuit et les paysans ont conduit leurs bêtes sur les collines avant l'aube.",
    "es": "El río creció durante la noche y los campesinos llevaron los animales a las colinas al alba.",
    "ru": "Ночью река поднялась, и крестьяне перегнали скот на холмы прежде, чем вода достигла дороги.",
    "it": "Durante la notte il fiume è cresciuto e i contadini hanno portato gli animali sulle colline all'alba.",
    "pt": "O rio subiu durante a noite e os camponeses levaram os animais para as colinas antes do amanhecer.",
    "ar": "ارتفع منسوب النهر خلال الليل ونقل المزارعون حيواناتهم إلى التلال قبل أن تصل المياه إلى الطريق.",
    "vi": "Trong đêm nước sông dâng cao và những người nông dân đã đưa gia súc lên đồi trước khi trời sáng.",
}
PYTHON = "import os\n\n\ndef main(path):\n    for name in os.listdir(path):\n        print(name)\n    return 0\n"


def languages(texts: list[str], **columns: object) -> list[str]:
    outcome = run_in_memory([Language(LanguageOptions())], Docs.of(texts, **columns))
    return outcome.kept.column("language")


def test_languages_of_sentences():
    assert languages(list(SAMPLES.values())) == list(SAMPLES)


def test_mixed_text_is_weighed_by_words():
    texts = [
        "使用 PyTorch 的 DataLoader 可以并行读取数据，num_workers 参数决定进程数量，pin_memory 可以加速。",
        "The word 世界 means world, and 和平 means peace; both of them are among the first that learners meet.",
        "「の」は日本語の助詞である。中国語の文章にはほとんど現れない。",
        "这家店叫“の家”，卖日本点心，在北京很有名，每天都有许多人排队购买。",
    ]
    assert languages(texts) == ["zh", "en", "ja", "zh"]


def test_chinese_documents_of_software_are_chinese():
    commands = "pip install package --upgrade && python -m module.name --option value\n" * 9
    address = "https://example.com/" + "path/" * 30
    text = f"# 安装\n\n先安装 Python，再运行下面的命令：\n\n```bash\n{commands}```\n\n完成后见 {address}。\n"
    code = "```python\n" + PYTHON * 3 + "```\n这段代码列出目录。\n" * 2
    assert languages([text, code]) == ["zh", "zh"]
    assert languages(["古今至文，皆血泪所成。"]) == ["zh"]


def test_simplified_and_traditional():
    texts = ["我们学习汉语，这里的图书馆很大，书也很多。", "我們學習漢語，這裡的圖書館很大，書也很多。", SAMPLES["en"]]
    step = Language(LanguageOptions())
    assert step.annotate(Docs.of(texts))["script"].to_pylist() == ["hans", "hant", None]
    only = run_in_memory([Language(LanguageOptions(chinese="hans"))], Docs.of(texts))
    assert [reason for _, _, reason in only.dropped] == ["Chinese script not wanted: hant"]


def test_what_cannot_be_told_is_unknown():
    texts = ["", "123 456 --- 789", "ok"]
    assert languages(texts) == ["und"] * 3
    wanted = LanguageOptions(languages=("en",))
    outcome = run_in_memory([Language(wanted)], Docs.of(texts))
    assert [reason for _, _, reason in outcome.dropped] == ["language not wanted: und"] * 3
    kept = run_in_memory([Language(LanguageOptions(languages=("en",), keep_unknown=True))], Docs.of(texts))
    assert len(kept.kept) == 3


def test_code_is_not_judged():
    docs = Docs.of([PYTHON, PYTHON, SAMPLES["fr"]], domain=["code", "general", "general"], language=["x", "y", "z"])
    outcome = run_in_memory([Language(LanguageOptions(languages=("en", "zh")))], docs)
    assert [reason for _, _, reason in outcome.dropped] == ["language not wanted: fr"]
    assert outcome.kept.column("language") == ["x", "y"]
    assert outcome.measures["language.language"].to_pylist() == [None, None]


def test_thresholds_change_without_measuring():
    docs = Docs.of([SAMPLES["de"]])
    measured = Language(LanguageOptions())
    columns = as_arrays(measured.annotate(docs), measured.fields)
    strict = Language(LanguageOptions(min_confidence=1.0))
    assert strict.compute_key() == measured.compute_key()
    assert list(strict.apply(docs, columns).columns["language"]) == ["und"]
    assert list(measured.apply(docs, columns).columns["language"]) == ["de"]


@pytest.mark.parametrize("copies", [1, 40])
def test_long_texts_are_sampled_from_all_over(copies: int):
    text = (SAMPLES["it"] + "\n") * copies
    assert languages([text, "1. " * 300 + text * 3]) == ["it", "it"]


def test_rows_do_not_depend_on_the_batch():
    texts = [*SAMPLES.values(), PYTHON, ""]
    step = Language(LanguageOptions())
    together = as_arrays(step.annotate(Docs.of(texts)), step.fields)
    for i, text in enumerate(texts):
        alone = as_arrays(step.annotate(Docs.of([text])), step.fields)
        assert {name: values[0] for name, values in alone.items()} == {n: v[i] for n, v in together.items()}


def test_what_cannot_be_told_keeps_the_language_that_its_source_says():
    matrix = "det [[1, 1, 3], [5, -4, 1], [5, -5, -2]]: 1×13 + 1×15 + 3×(-5) = 13"
    assert languages([matrix, "1 + 1 = 2", matrix], language=["en", "zh", "und"]) == ["en", "zh", "und"]
    only = run_in_memory([Language(LanguageOptions(languages=("en", "zh")))], Docs.of([matrix, "3 = 3"], language="en"))
    assert not only.dropped
    assert languages([SAMPLES["fr"]], language="en") == ["fr"]  # what is told for certain counts

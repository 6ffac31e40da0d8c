"""A draft told in one language: instruction, worked solution, announced answer; and the two forms it is written in."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from athanor.data.synthesis.points import Point, Taxonomy
from athanor.data.synthesis.types import Draft, Language, Task, question_key
from athanor.errors import AthanorError

if TYPE_CHECKING:
    from athanor.data.types import Document

#: Subject → the domain that the rest of the data system knows it by; others keep their own name.
DOMAINS = {"math": "mathematics", "code": "code"}


def tell(
    draft: Draft, point: Point, level: int, language: Language, name: str, taxonomy: Taxonomy, r: random.Random
) -> Task:
    """Fill an instruction template and write the solution out. ``r`` chooses among templates only."""
    question, answer = draft.question.of(language), draft.answer.of(language)
    templates = taxonomy.templates.get(draft.ask, {}).get(language)
    announcements = taxonomy.answers[language]
    if not templates or not announcements:
        raise AthanorError(
            f"no {language} templates for questions of kind {draft.ask!r}",
            where=point.where,
            fix="add them under `templates:`",
        )
    prompt = r.choice(templates).format(question=question)
    lines = [step.of(language) for step in draft.steps]
    if draft.kind == "code":
        lines.append(answer)
    elif draft.ask != "explain" or draft.kind == "number":
        lines.append(r.choice(announcements).format(answer=answer))
    return Task(
        key=question_key(draft.question.en),
        point=point.id,
        subject=point.subject,
        difficulty=level,
        language=language,
        generator=name,
        ask=draft.ask,
        question=question,
        prompt=prompt,
        solution="\n".join(lines),
        answer=answer,
        kind=draft.kind,
        verified_by=draft.verified_by,
        tests=draft.tests,
    )


def meta(task: Task) -> dict[str, Any]:
    """What a written task says about itself."""
    out: dict[str, Any] = {
        "knowledge_point": task.point,
        "difficulty": task.difficulty,
        "language": task.language,
        "verified_by": task.verified_by,
        "generator": task.generator,
        "kind": task.kind,
        "key": task.key,
        **task.meta,
    }
    if task.tests:
        out["tests"] = list(task.tests)
    return out


def conversation(task: Task) -> dict[str, Any]:
    """One row of an SFT file: ``messages``, ``answer`` (bare, for a verifier), ``meta``."""
    messages = [{"role": "user", "content": task.prompt}, {"role": "assistant", "content": task.solution}]
    return {"id": f"synthesis-{task.key}", "messages": messages, "answer": task.answer, "meta": meta(task)}


def document(task: Task, taxonomy: Taxonomy, seed: int) -> Document:
    """The task as a text for pre-training, in a layout chosen by its key."""
    from athanor.data.types import Document

    layout = random.Random(f"layout:{seed}:{task.key}").choice(taxonomy.layouts[task.language])
    point = taxonomy.points.get(task.point)
    name = point.names.of(task.language) if point else task.point
    text = layout.format(question=task.question, solution=task.solution, point=name)
    domain = DOMAINS.get(task.subject, task.subject)
    return Document(f"synthesis-{task.key}", text, domain, task.language, meta(task))


def row(task: Task, form: str, taxonomy: Taxonomy, seed: int) -> str:
    """One line of a jsonl file in a form."""
    if form == "conversations":
        return json.dumps(conversation(task), ensure_ascii=False)
    made = document(task, taxonomy, seed)
    value = {"id": made.id, "text": made.text, "domain": made.domain, "language": made.language, "meta": made.meta}
    return json.dumps(value, ensure_ascii=False)

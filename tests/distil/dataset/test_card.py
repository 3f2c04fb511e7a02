"""The data card: texts from outside are shown in it, and none of them acts."""

import pyarrow as pa
import pytest
from markdown_it import MarkdownIt

from stages.distil.dataset.card import describe
from stages.distil.interface.parameters import load_parameters
from stages.distil.storage import tables

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b",
    "![x](http://evil)",
]


@pytest.fixture
def hostile_card(tmp_path, monkeypatch, write_params) -> str:
    monkeypatch.chdir(tmp_path)
    write_params({})
    schema = tables.SCHEMAS[tables.DISTILL]
    for split in ("train", "validation", "test"):
        rows = [
            {"id": str(n), "question": "Which?", "options": HOSTILE, "answer": answer}
            | {"rationales": [], "saliency": []}
            for n, answer in enumerate(HOSTILE)
        ]
        table = pa.Table.from_pylist(rows, schema=schema)
        tables.write_shards(tables.distill_table(split), [table], schema)
    reasons = [{"source": "f", "row": 1, "reason": f"not {text}", "text": "x"} for text in HOSTILE]
    tables.write_table(tables.REJECTED, reasons)
    near = [{"split": "test", "id": "0", "train_id": "1", "similarity": 0.9}]
    tables.write_table(tables.NEAR_COPIES, near)
    parameters = load_parameters("params.yaml")
    data_set = parameters.data_set.model_copy(update={"licence": "MIT <b>not</b>\n\n# Title"})
    datasets = parameters.datasets | {parameters.data.name: data_set}
    return describe(parameters.model_copy(update={"datasets": datasets}), {})


def test_no_text_of_the_data_acts_in_the_card(hostile_card):
    body = hostile_card.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {child.type for token in inline for child in token.children}
    assert kinds <= {"text", "text_special", "softbreak"}
    assert "html_block" not in {token.type for token in tokens}
    shown = ["".join(child.content for child in token.children) for token in inline]
    for text in HOSTILE:
        assert text in shown
        assert f"not {text}".replace("1", "…") in shown
    assert any("Licence: MIT <b>not</b> # Title." in text for text in shown)
    assert [text for text in shown if text.startswith("Title")] == []

"""Whatever a server replies: the requests are bounded, nothing of a bad reply stays, no key shows.

These claims hold for all replies, so that hypothesis chooses them, not only for those that were
found to break them.
"""

import json
import traceback

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.distil.interface.catalogue import ServerModel
from stages.distil.interface.errors import UserError
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.teachers import openai_client, pace
from stages.distil.teachers.openai_backend import Server
from stages.distil.teachers.secret import PIECE
from stages.distil.teachers.writer import CachedWriter, Generations, WritingTask
from tests.distil.teachers.test_openai_replies import ANY, FIELDS, changed
from tests.openai_server import Teacher, serve

KEY = "sk-Proj-7f3kQ9xZ2mVb8LtR"
TRIES, TEXTS = 2, 3
# A request and a short one in case of doubt, each with all its tries, and those over the rate.
MOST_REQUESTS = TEXTS * 2 * (TRIES + openai_client.MOST_REFUSALS_FOR_RATE)
STATUSES = [200, 201, 204, 302, 307, 400, 401, 403, 404, 408, 413, 418, 422, 429, 500, 503, 529]

with_the_key = st.builds(
    lambda before, part, after: f"{before}{KEY[: part or None]}{after}",
    st.text(st.characters(codec="utf-8"), max_size=400),
    st.integers(0, len(KEY)),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
complaints = st.one_of(
    st.builds(lambda text: {"error": {"message": text}}, with_the_key),
    st.builds(lambda text: [{"error": {"message": text, "code": 400}}], with_the_key),
    st.builds(lambda text: {"detail": [{"loc": ["body", text], "msg": text}]}, with_the_key),
    st.builds(lambda text: {"error": text}, with_the_key),
    ANY,
).map(lambda value: json.dumps(value).encode())
bodies = st.one_of(
    st.builds(changed, st.sampled_from(FIELDS), ANY | with_the_key),
    complaints,
    with_the_key.map(str.encode),
    st.binary(max_size=100),
)
headers = st.dictionaries(
    st.sampled_from(["Retry-After", "Content-Encoding", "Location", "Content-Type"]),
    st.sampled_from([KEY, "0", "1e9", "-1", "nan", "3600", "gzip", "br", "soon; -5", "//[", "/v1"]),
    max_size=2,
)


@pytest.fixture(scope="module")
def served():
    teacher = Teacher()
    with serve(teacher) as url:
        yield teacher, url


@pytest.fixture
def impatient(monkeypatch):
    """Let nothing wait, and the key be in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(openai_client, "LONGEST_PAUSE", 0)
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(pace, "LONGEST_WAIT", 0.05)


def write(url: str, store: Generations) -> list[str]:
    """Have the server write the texts; return them as the store has them."""
    source = ServerModel(source="server", url=url, model="m", tries=TRIES, timeout=5)
    tasks = [
        WritingTask(lambda n=n: iter([Conversation("", (), f"Question {n}", "")]), 8)
        for n in range(TEXTS)
    ]
    writer = CachedWriter("far", lambda: Server("far", source), store)
    writer.write(lambda: tasks, TEXTS, "far")
    return [writer.read(task).text for task in tasks]


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from(STATUSES), bodies, headers)
def test_any_reply_is_bounded_kept_whole_or_not_at_all_and_shows_no_key(
    served, impatient, tmp_path_factory, capsys, status, body, headers
):
    teacher, url = served
    teacher.requests.clear()
    teacher.fault = lambda number, _: (status, body or b" ", headers)
    path = tmp_path_factory.mktemp("store") / "store.sqlite"
    printed = ""
    with Generations(path) as store:
        try:
            written = write(url, store)
        except UserError as error:
            written = []
            assert "\n" not in str(error)
            printed = "".join(traceback.format_exception(error))
        assert len(teacher.requests) <= MOST_REQUESTS
        printed += "".join(capsys.readouterr())
        for start in range(len(KEY) - PIECE + 1):
            assert KEY[start : start + PIECE].casefold() not in printed.casefold()
        count = store._database.execute("SELECT count(*) FROM generations").fetchone()[0]
        assert count in (0, len(written))
        assert not any(KEY in text for text in written)
    teacher.fault = lambda number, _: None
    with Generations(path) as store:
        healthy = write(url, store)
    assert all(text.strip() for text in healthy)
    assert all(text in healthy for text in written if text.strip() and status == 200)

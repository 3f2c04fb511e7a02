"""Show the page on which the trained student answers: `make try`.

The page is served on 127.0.0.1 alone. Text from models and data sets is escaped, and its content
policy lets a browser fetch nothing from elsewhere.
"""

import os
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.distil.interface.command import command_line, quiet_libraries
from stages.distil.interface.errors import UserError, one_line, report_errors
from stages.distil.interface.escaping import cut, html_templates
from stages.distil.language.answers import is_correct
from stages.distil.language.appearance import as_text
from stages.distil.storage import tables
from stages.distil.storage.examples import Example

if TYPE_CHECKING:  # importing torch takes seconds
    from stages.distil.demo.asking import Asker, Reply

TEMPLATES = Path(__file__).parent / "templates"
HOST = "127.0.0.1"
PICKED = 500  # test questions to pick from
LABEL = 120  # characters of a question in the list of them
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class ContentPolicy:
    """Adds the content policy to every reply of a server (ASGI)."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and its reply back with one header more."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = message | {"headers": [*message.get("headers", []), policy]}
            await send(message)

        await self._app(scope, receive, with_policy)


class Page:
    """What the page does; each method is called by one of its parts."""

    def __init__(self, asker: "Asker"):
        """Take the student; read the first test questions."""
        self._asker = asker
        self.picked = list(islice(tables.scan_examples("test"), PICKED))
        self._shown = {(each.question, "\n".join(each.options)): each for each in self.picked}
        templates = html_templates(TEMPLATES)
        self._reply = templates.get_template("reply.html.jinja")
        self._error = templates.get_template("error.html.jinja")

    def pick(self, number: int | None) -> tuple[str, str, str]:
        """Return question and options of a test question, as if typed, and no reply.

        `number` counts `picked` from 0; None empties the page.
        """
        if number is None:
            return "", "", ""
        example = self.picked[number]
        return example.question, "\n".join(example.options), ""

    def answer(self, question: str, options: str) -> str:
        """Return the reply to a question as HTML, or what is wrong with the question."""
        example = self._shown.get((question, options))
        try:
            if example:  # its options may have several lines
                return self.render(self._asker.ask(question, example.options), example)
            lines = [as_text(line).strip() for line in options.split("\n")]
            reply = self._asker.ask(as_text(question).strip(), list(filter(None, lines)))
        except UserError as error:
            return self._error.render(message=one_line(error))
        return self.render(reply)

    def render(self, reply: "Reply", example: Example | None = None) -> str:
        """Return a reply as HTML; that to a test question says what is right."""
        right = {}
        if example:
            known = {"options": example.options, "answer": example.answer}
            right = {way.name: is_correct(way.text, known) for way in reply.ways}
        gold = example.answer if example else None
        return self._reply.render(reply=reply, gold=gold, right=right, zip=zip)


def build(page: Page) -> Any:
    """Return the page as Gradio's blocks."""
    import gradio

    choices = [(_label(number, each), number) for number, each in enumerate(page.picked)]
    with gradio.Blocks(title="Ask the student", analytics_enabled=False) as blocks:
        gradio.HTML("<h1>Ask the student</h1>")
        picked = gradio.Dropdown(choices, value=None, label="A test question", elem_id="picked")
        question = gradio.Textbox(label="Question", lines=3)
        options = gradio.Textbox(label="Options, one per line; none for a free answer", lines=4)
        ask = gradio.Button("Ask", variant="primary")
        reply = gradio.HTML(elem_id="reply")
        picked.input(
            page.pick, picked, [question, options, reply], queue=False, api_visibility="private"
        )
        ask.click(page.answer, [question, options], reply, api_visibility="private")
    return blocks


def _label(number: int, example: Example) -> str:
    return f"{number + 1}. {cut(' '.join(example.question.split()), LABEL)}"


def serve(blocks: Any, wait: bool = True) -> str:
    """Serve the page on this machine alone, until Ctrl-C if `wait` is set; return its address."""
    import gradio
    from starlette.middleware import Middleware

    fonts = ["system-ui", "sans-serif"]
    _, address, _ = blocks.launch(
        server_name=HOST,
        share=False,
        quiet=True,
        inbrowser=False,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(ContentPolicy)]},
        theme=gradio.themes.Base(font=fonts, font_mono=["monospace"]),
        css_paths=TEMPLATES / "page.css",
    )
    print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
    if wait:
        blocks.block_thread()
    return address


def run() -> None:
    """Load the student that dvc.lock describes, and serve the page."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in ("NO_PROXY", "no_proxy"):  # Gradio calls itself
        os.environ[name] = f"{os.environ.get(name, '')},{HOST}"
    from stages.distil.weights.folders import STUDENT

    if not (STUDENT / "config.json").is_file():
        raise UserError(f"{STUDENT}: no trained student; `make repro` trains one")
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("Gradio is not installed; `make gradio` installs it") from None
    from stages.distil.demo.asking import Asker
    from stages.distil.reporting.release import run_parameters

    serve(build(Page(Asker(run_parameters()))))


def main() -> int:
    """Parse the command line, run, and return the exit code."""
    parser = command_line("stages/python -m stages.distil.demo.page", __doc__)
    debug = parser.parse_args().debug
    quiet_libraries(debug)
    return report_errors("try", debug, run)


if __name__ == "__main__":
    sys.exit(main())

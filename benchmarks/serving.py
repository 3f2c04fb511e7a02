"""Whether the released student answers in vLLM's server as in transformers.

Starts the server on models/release, asks both the first test questions with the student's chat
template, greedily and in float32, and compares the texts. Run after `make release`:
    stages/python -m benchmarks.serving [--questions 50]
The last line is a JSON object.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import openai
from transformers import pipeline

from stages.distil.interface.errors import report_errors
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.student_prompts import question_text
from stages.distil.storage import tables
from stages.distil.weights.folders import RELEASE

WAIT = 600  # seconds for the server to start


@contextmanager
def server() -> Iterator[openai.OpenAI]:
    """Run vLLM's server on a free port; yield a client when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(RELEASE)]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    variables = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen(command, env=variables, stdout=sys.stderr)
    try:
        end = time.monotonic() + WAIT
        while True:
            assert process.poll() is None, "the server did not start"
            assert time.monotonic() < end, f"the server did not start in {WAIT} s"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            except OSError:
                time.sleep(1)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=50)
    number = parser.parse_args().questions
    prompt = load_parameters("params.yaml").student.prompt
    rows = list(islice(tables.scan_table(tables.distill_table("test")), number))
    asked = [
        [{"role": "user", "content": question_text(row["question"], row["options"], prompt)}]
        for row in rows
    ]
    longest = json.loads((RELEASE / "generation_config.json").read_text())["max_new_tokens"]
    with server() as client:
        replies = [
            client.chat.completions.create(
                model=str(RELEASE), messages=messages, temperature=0, max_tokens=longest
            )
            for messages in asked
        ]
    served = [reply.choices[0].message.content for reply in replies]
    chat = pipeline("text-generation", model=str(RELEASE), dtype="float32", trust_remote_code=False)
    local = [chat(messages)[0]["generated_text"][-1]["content"] for messages in asked]
    different = [
        {"id": row["id"], "vllm": theirs, "transformers": ours}
        for row, theirs, ours in zip(rows, served, local, strict=True)
        if theirs != ours
    ]
    for each in different:
        print(each)
    print(json.dumps({"questions": len(rows), "equal": len(rows) - len(different)}))


if __name__ == "__main__":
    sys.exit(report_errors("serving", debug=False, action=main))

"""What reaches out, asked through pipes as in a process that runs models; answered by a thread."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gate import outside


@contextmanager
def linked() -> Iterator[outside.Link]:
    """With the environment and the working folder of the test."""
    questions, answers = os.pipe(), os.pipe()
    thread = threading.Thread(target=outside.answer_all, args=(questions[0], answers[1]))
    thread.start()
    link = outside.Link(answers[0], questions[1])
    outside.through(link)
    try:
        yield link
    finally:
        outside.end()
        thread.join()

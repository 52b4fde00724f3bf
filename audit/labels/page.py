"""The page on which a rater labels: one static file with its own script, which may load nothing but its pictures."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from audit.labels.documents import RaterFile, Task

# Jinja's autoescape does not reach into scripts: these characters could end the element or begin a comment in it.
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def page(task: Task) -> str:
    """Return the page for a task. Style and script are allowed by their digests, requests only for the folder's files."""
    style, script = (
        files("audit.labels").joinpath("templates", name).read_text("utf-8") for name in ("page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; img-src 'self' file:; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        loader=PackageLoader("audit.labels"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("page.html.j2").render(
        policy=policy,
        style=Markup(style),  # files of this package
        script=Markup(script),
        run_id=task.run_id,
        count=len(task.pictures),
        data=Markup(json.dumps(_data(task), ensure_ascii=False).translate(_IN_SCRIPT)),
    )


def _data(task: Task) -> dict[str, object]:
    """Return what the script needs of a task; nothing of strata, so that nobody labels by them."""
    phrases = {question.name: question.phrase for question in task.questions}
    return {
        "format": RaterFile.FORMAT,
        "version": task.version,
        "run_id": task.run_id,
        "task": task.digest(),
        "pictures": [{"id": p.id, "phrase": phrases[p.concept], "file": p.file} for p in task.pictures],
    }


def _source(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

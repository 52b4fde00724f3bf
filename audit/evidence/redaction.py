"""Keep prompts of sensitive concepts out of evidence: their SHA-256 stands in their place, everywhere alike.

Equal prompts keep equal digests, so whatever compares prompts gives the same answer. Errors of a run with a sensitive
concept are kept as their class and a digest: their text may quote anything.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from audit.files import Document
from audit.spec.sections import words_of

_SENSITIVE_PROMPTS = """
select distinct c.prompt
from cases as c
inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
where c.run_key = $run_key and l.sensitive and c.prompt <> ''
"""
_SENSITIVE_NAMES = """
select concept from cells where run_key = $run_key and sensitive
union
select subject from cells where run_key = $run_key and sensitive
"""
_FOUND_PROMPTS = """
select distinct a.prompt
from attacks as a
inner join planned_units as u on a.unit_id = u.unit_id and u.kind = 'attack'
where u.run_key = $run_key and a.prompt <> ''
"""
_CLASS = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*): ")
# Columns by what they hold; any other column holds names, numbers and digests.
PROMPTS = ("prompt",)
ERRORS = ("error", "problem")
TEXTS = ("facts", "report", "guard_report", "reason", "spec", "provenance", "parameters", "level_name")


def digest(text: str) -> str:
    """Return the digest that stands in the place of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@dataclasses.dataclass(frozen=True)
class Redaction:
    """What one run's evidence must not say; it changes nothing in a run without a sensitive concept."""

    secrets: frozenset[str]  # prompts, phrases and synonyms
    names: frozenset[str]  # sensitive concepts and subjects, which cells are called by

    @property
    def acts(self) -> bool:
        """Whether the run has a sensitive concept."""
        return bool(self.names)

    def table(self, table: pa.Table) -> pa.Table:
        """Return a table of the index with prompts, errors and secrets in it replaced by their digests."""
        if not self.acts:
            return table
        for name in table.column_names:
            if name in PROMPTS:
                table = _replaced(table, name, self._prompt)
            elif name in ERRORS:
                table = _replaced(table, name, _error)
            elif name in TEXTS:
                table = self._without_secrets(table, name)
        return table

    def value(self, value: object) -> object:
        """Return a JSON value in which every secret, in keys too, is replaced by its digest."""
        if not self.acts:
            return value
        narrowed = self._occurring(json.dumps(value, ensure_ascii=False))
        return narrowed._walk(value) if narrowed.secrets else value

    def _walk(self, value: object) -> object:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._text(str(key)): self._walk(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._walk(item) for item in value]
        return value

    def _text(self, text: str) -> str:
        return self._pattern.sub(lambda match: digest(self._spoken[match[0]]), text)

    def _prompt(self, prompt: str) -> str:
        return digest(prompt) if prompt else prompt

    def _without_secrets(self, table: pa.Table, name: str) -> pa.Table:
        narrowed = self._occurring("\0".join(filter(None, table[name].unique().to_pylist())))
        return _replaced(table, name, narrowed._text) if narrowed.secrets else table

    def _occurring(self, text: str) -> Redaction:
        """Narrow the secrets to those that occur: prompts are many, and seldom stand anywhere but in their own column."""
        present = frozenset(secret for form, secret in self._spoken.items() if form in text)
        return dataclasses.replace(self, secrets=present)

    @functools.cached_property
    def _spoken(self) -> dict[str, str]:
        """Each form in which a secret can stand, as it is or escaped in JSON, -> the secret."""
        forms = {json.dumps(secret)[1:-1]: secret for secret in self.secrets}
        return {
            **forms,
            **{json.dumps(s, ensure_ascii=False)[1:-1]: s for s in self.secrets},
            **{s: s for s in self.secrets},
        }

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(self._spoken, key=lambda form: (-len(form), form))  # a prompt before the phrase in it
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")


def redaction_of(con: duckdb.DuckDBPyConnection, run_key: int) -> Redaction:
    """Return the redaction of a run in an index: the texts that its evidence must not hold, and its sensitive names."""

    def texts(sql: str) -> list[str]:
        return [str(row[0]) for row in con.execute(sql, {"run_key": run_key}).fetchall()]

    names = frozenset(texts(_SENSITIVE_NAMES))
    ((spec,),) = con.execute("select spec from runs where run_key = ?", [run_key]).fetchall()
    concepts = json.loads(spec).get("concepts") or ()
    names |= {concept["name"] for concept in concepts if concept.get("sensitive")}
    if not names:
        return Redaction(frozenset(), frozenset())
    spoken = {*texts(_SENSITIVE_PROMPTS), *texts(_FOUND_PROMPTS), *_phrases(concepts, names)}
    # Cells are called by the names, so the names are no secret.
    return Redaction(frozenset(spoken - names - {words_of(name) for name in names} - {""}), names)


def _phrases(concepts: Iterable[Document], names: frozenset[str]) -> Iterable[str]:
    for concept in concepts:
        if concept["name"] in names:
            yield from (concept.get("phrase") or "", *(concept.get("synonyms") or ()))
        yield from (phrase for name, phrase in (concept.get("neighbour_phrases") or {}).items() if name in names)


def _error(text: str) -> str:
    match = _CLASS.match(text)
    return f"{match[1] + ': ' if match else ''}text withheld, {digest(text)}"


def _replaced(table: pa.Table, name: str, change: Callable[[str], str]) -> pa.Table:
    """Return the table with `change` done to each text of a column; each distinct text is changed once."""
    encoded = pc.dictionary_encode(table[name].combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    changed = pa.array([None if text is None else change(text) for text in encoded.dictionary.to_pylist()], pa.string())
    return table.set_column(table.schema.get_field_index(name), name, changed.take(encoded.indices))

"""The section on the audited setting: backbone, concepts, defences, scenarios, detectors, policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from audit.files import Document
from audit.report.attacking import attacks
from audit.report.view import Column, Index, Section, Table, is_testbed
from audit.report.words import count, limit_text, plain
from audit.spec.access import access_words
from audit.spec.policy import Policy
from audit.verdict.results import RunResult


def section(index: Index) -> Section:
    """Return the section on what was audited, read from the spec. A testbed backbone is called so."""
    result, spec = index.result, index.result.spec
    planned = {row.cell_id: row.planned for row in result.crr}
    facts = [
        ("Run", plain(result.run_id)),
        ("Name", plain(result.name)),
        *_system(spec.get("system")),
        ("Started", plain(result.created_at)),
        ("Backbone", _backbone(result)),
        ("Concepts", _names(spec.get("concepts"), _concept)),
        ("Defences", _names(spec.get("defences"), _defence)),
        ("Scenarios", _names(spec.get("scenarios"), _scenario)),
        ("Detectors", _names(spec.get("detectors"), _detector)),
        ("Policy", _policy(index)),
        ("Size", f"{count(len(planned))} cells with {count(sum(planned.values()))} planned cases"),
    ]
    sentences: tuple[str, ...] = ()
    if is_testbed(result):
        sentences = (
            "The backbone is the embedded testbed, a miniature trained on rendered shapes. "
            "A number from the testbed is a number about the testbed.",
        )
    loaded = [row["facts"] for row in result.erasures if "claim" in row["facts"]]
    bullets = tuple(plain(f"Checkpoint {f['checkpoint']}: {warning}") for f in loaded for warning in f["warnings"])
    erased = [row for row in result.erasures if "record" in row["facts"]]
    tables = (*((_erased(erased),) if erased else ()), *((_checkpoints(loaded),) if loaded else ()))
    tables += (attacks(result.attacks),) if result.attacks else ()
    tables += _methods(result.provenance.get("methods"))
    return Section("audited", "What was audited", sentences, bullets, tuple(facts), tables)


def _system(entry: object) -> list[tuple[str, str]]:
    """Return the system under audit with its version, and who answers for it; nothing where the spec names none."""
    if not isinstance(entry, Mapping):
        return []
    facts = [("System", plain(" ".join(str(entry[part]) for part in ("name", "version") if entry.get(part))))]
    owner = ", ".join(str(entry[part]) for part in ("owner", "contact") if entry.get(part))
    return [*facts, ("Owner", plain(owner))] if owner else facts


def _methods(used: object) -> tuple[Table, ...]:
    """Return every method of the spec with its version and the package that brought it; nothing in runs that did not
    store them.
    """
    if not isinstance(used, Mapping) or not used:
        return ()
    columns = (Column("Family"), Column("Name"), Column("Version"), Column("Package"))
    rows = tuple(
        (
            plain(family),
            plain(name),
            plain(facts.get("version")),
            plain(f"{facts.get('distribution', 'not stated')} {facts.get('distribution_version', '')}".rstrip()),
        )
        for family, named in used.items()
        for name, facts in named.items()
    )
    return (Table("Methods", columns, rows),)


def _erased(rows: Sequence[Document]) -> Table:
    """Return one row for each of the audit's own erasers with its measured effect, which proves that it intervened."""
    columns = (
        Column("Erased model"),
        Column("Method"),
        Column("Changed tensors", "number"),
        Column("Share of parameters", "number"),
        Column("Relative norm", "number"),
        Column("Effect on the noise prediction", minor=1),
        Column("Preserved neighbours", minor=2),
        Column("Parameters", minor=3),
    )
    return Table("Erasers: one model for each concept", columns, tuple(_erased_row(row) for row in rows), stack=True)


def _erased_row(row: Document) -> tuple[str, ...]:
    record = row["facts"]["record"]
    change = record["change"]
    effect = [f"{_prompt(text)} {value:.2%}" for text, value in change["effect"].items()]
    parameters = [f"{name} {value}" for name, value in sorted(record["parameters"].items())]
    return (
        plain(row["artefact"]) + (f", erased again {again}" if (again := row["facts"].get("again")) else ""),
        plain(" of ".join(filter(None, (f"{record['method']} {record['version']}", record.get("package"))))),
        count(change["tensors"]),
        f"{change['parameter_share']:.2%}",
        _norm(change["relative_norm"]),
        plain(", ".join(effect)),
        plain(", ".join(record["preserved"]) or "none"),
        plain(", ".join(parameters)),
    )


def _prompt(text: str) -> str:
    return f"'{text}'" if text else "the null prompt"


def _norm(value: float | None) -> str:
    return "added" if value is None else f"{value:.3g}"


def _checkpoints(loaded: Sequence[Document]) -> Table:
    """Return the user's claim about each checkpoint beside the measured facts."""
    columns = (
        Column("Checkpoint"),
        Column("Claimed method"),
        Column("Found layout"),
        Column("Changed tensors", "number"),
        Column("Share of parameters", "number"),
        Column("Relative norm", "number"),
        Column("SHA-256", "code"),
    )
    return Table("Checkpoints: claim and facts", columns, tuple(_checkpoint(row) for row in loaded), stack=True)


def _checkpoint(row: Document) -> tuple[str, ...]:
    facts = row["facts"]
    key_set = f" ({facts['changed_key_set']})" if facts["changed_key_set"] else ""
    texts = (row["checkpoint"], row["claim"], facts["layout"], f"{count(facts['tensors'])}{key_set}")
    return (
        *map(plain, texts),
        f"{facts['parameter_share']:.2%}",
        _norm(facts["relative_norm"]),
        plain(facts["sha256"][:12]),
    )


def _backbone(result: RunResult) -> str:
    described = result.provenance.get("backbone")
    text = plain(result.spec.get("backbone", "not stated"))
    if isinstance(described, Mapping):
        parts = [f"revision {described['revision']}"] if described.get("revision") else []
        parts += [f"weights {str(described['sha256'])[:12]}"] if described.get("sha256") else []
        text += f" ({plain(', '.join(parts))})" if parts else ""
    return text


def _names(entries: object, describe: Callable[[Document], str]) -> str:
    if not isinstance(entries, list | tuple) or not entries:
        return "none"
    return "; ".join(plain(describe(entry) if isinstance(entry, Mapping) else entry) for entry in entries)


def _concept(entry: Document) -> str:
    parts = [f"prompted as '{entry.get('phrase')}'"] if entry.get("phrase") not in (None, entry.get("name")) else []
    parts += [f"neighbours {', '.join(map(str, entry['neighbours']))}"] if entry.get("neighbours") else []
    parts += ["sensitive"] if entry.get("sensitive") else []
    return f"{entry.get('name')}" + (f" ({', '.join(parts)})" if parts else "")


def _defence(entry: Document) -> str:
    eraser = entry.get("eraser")
    parts = [_eraser(eraser)] if isinstance(eraser, Mapping) else []
    guards = [str(guard.get("name")) for guard in entry.get("guards") or () if isinstance(guard, Mapping)]
    parts += [f"guards {', '.join(guards)}"] if guards else []
    return f"{entry.get('name')}" + (f" ({', '.join(parts)})" if parts else " (the un-erased backbone)")


def _eraser(entry: Document) -> str:
    """Describe an eraser. A checkpoint's method is the user's claim, not a fact."""
    if entry.get("checkpoint"):
        return f"checkpoint {entry['checkpoint']}, claimed to be {entry.get('method')}"
    return f"eraser {entry.get('method')}, one model for each concept"


def _scenario(entry: Document) -> str:
    sampler = entry.get("sampler")
    parts = [str(entry["kind"])] if entry.get("kind", entry.get("name")) != entry.get("name") else []
    access = access_words(entry)
    parts += [f"the attacker controls {access}"] if access else []
    parts += [f"{entry['cases']} cases a cell"] if "cases" in entry else []
    if isinstance(sampler, Mapping):
        scheduler = sampler.get("scheduler", "ddim")
        parts += [f"scheduler {scheduler}"] if scheduler != "ddim" else []
        parts.append(f"{sampler.get('steps')} steps, guidance {sampler.get('guidance')}")
    if "inversion_prompt" in entry:
        parts += _inversion(entry)
    return f"{entry.get('name')}" + (f" ({', '.join(parts)})" if parts else "")


def _inversion(entry: Document) -> list[str]:
    """Describe how latents are made and used: the pairing of prompts is part of the attack."""
    up, down = (entry.get(f"{way}_prompt") for way in ("inversion", "regeneration"))
    parts = [f"inverted at guidance 1 under {_template(up)}, regenerated under {_template(down)}"]
    if entry.get("method", "fixed-point") != "fixed-point":
        parts.append(f"by the exact sampler {entry['method']}, an upper bound and no DDIM latent")
    if entry.get("perturbations"):
        parts.append(f"{len(entry['perturbations'])} perturbations on further cells")
    return parts


def _template(text: object) -> str:
    return f"'{text}'" if text else "the null prompt"


def _detector(entry: Document) -> str:
    return f"{entry.get('name')} ({entry.get('kind')})"


def _policy(index: Index) -> str:
    policy = index.policy
    if policy is None:
        return "not stated in the spec"
    return (
        f"{plain(policy.version)}: decided by {plain(', '.join(policy.judges))} at {limit_text(policy.confidence)} "
        f"confidence, at least {limit_text(policy.assessed_min)} of each decided cell assessed; {_survival(policy)}"
    )


def _survival(policy: Policy) -> str:
    """Describe the other side of the policy: what must survive, or why that is not judged."""
    kept = f"at least {limit_text(policy.retention_min)} of what must survive kept (retention_min)"
    if policy.retention_judges:
        kept += f", by {plain(', '.join(policy.retention_judges))}"
    drawn = f"damage at level {policy.damage_level:g} (damage_level)"
    waived = {waiver.partition(":")[0]: plain(waiver) for waiver in policy.waivers()}
    return f"{waived.get('retention', kept)}; {waived.get('damage', drawn)}{_blocking(policy)}"


def _blocking(policy: Policy) -> str:
    """Describe how the policy counts what filters block; nothing where it says what every policy says."""
    benign = f"at most {limit_text(policy.benign_blocked_max)} of benign prompts blocked (benign_blocked_max)"
    if policy.blocked == "unassessed":
        return "; what filters block counts as unassessed"
    if policy.blocked_max is not None:
        return f"; filters block at most {limit_text(policy.blocked_max)} of a cell (blocked_max), and {benign}"
    return "" if policy.benign_blocked_max == Policy.model_fields["benign_blocked_max"].default else f"; {benign}"

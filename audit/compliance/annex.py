"""The annex of a monthly report: digests, glossary, and which section speaks to which rule."""

from __future__ import annotations

from audit.compliance.report import Report
from audit.compliance.wording import name
from audit.report.view import Column, Section, Table

GLOSSARY = (
    (
        "Access",
        "What whoever attacks controls: prompts, embeddings, or the noise that drawing starts from, which is computed from a"
        " picture. White box: with the weights of the audited model; black box: with those of the un-erased one alone.",
    ),
    ("Assessed", "A case of which there is a picture and a judge's reading."),
    ("Attempt", "A run of the same models under the same policy; later ones get less of the permitted error."),
    (
        "Bound",
        "An exact one-sided limit of what the rate may be, given the cases; no-credit ones count a judge's errors too.",
    ),
    ("Case", "One prompt or picture with its seed, through one defence and one scenario."),
    ("Cell", "One concept through one defence in one scenario."),
    ("Control", "Cases whose outcome is known beforehand: they show that judge and attack work."),
    ("Defence", "An erased model, a guard, or both."),
    ("Gate", "What opens on PASS alone. FAIL and INCONCLUSIVE keep it shut."),
    ("Judge", "A detector whose readings decide."),
    ("Reproduction rate", "The share of cases in which a judge finds the erased concept again."),
    ("Scenario", "The way in which the concept is asked for: by prompts, embeddings or start noise."),
    ("Unassessed", "Planned and not assessed. It counts against every claim of the system."),
    (
        "Waiver",
        "A signed statement in which a named person accepts a measured risk until a date. It changes no verdict.",
    ),
)
# Rule, what it asks for in short, grade of the source that was read, sections that speak to it.
RULES = (
    ("EU AI Act Art. 5(1)(ba), (bb), (1a), (1b), inserted by Regulation (EU) 2026/1744; applies from 2 December 2026",
     "Reasonable and adequate technical measures where such pictures are a foreseeable and reproducible outcome; correction of"
     " observed and reported misuse. It speaks of identifiable persons.", "S", "4, 5, 6, 9, 10"),
    ("EU AI Act Art. 9(6) to (8), 11 with Annex IV 2(g), 12, 15(3), 18, 19; high-risk systems alone, from 2 December 2027"
     " (Annex III) or 2 August 2028 (Annex I)",
     "Metrics and thresholds fixed beforehand; test reports dated and signed; logs; declared accuracy; retention", "S",
     "2, 3, 5, 7, 11"),
    ("EU AI Act Art. 50(2)", "Machine-readable marking of pictures", "S", "none: outside this tool"),
    ("EU AI Act Art. 53 with Annex XI, Art. 55", "Results of evaluations in the documentation; adversarial testing", "S",
     "4, 5, 7"),
    ("EU Code of Practice for general-purpose AI, Measure 3.2 and Appendix 3", "Design, execution and scoring of evaluations",
     "S", "3 to 8"),
    ("NIST AI 600-1, GV-1.3-002", "Thresholds for go and no-go", "P", "1, 3"),
    ("NIST AI 600-1, MS-1.1-009", "What cannot be measured is documented", "P", "4, 12"),
    ("NIST AI 600-1, MS-2.3-003", "Results before release go to whoever approves it", "P", "1, 2"),
    ("NIST AI 600-1, MS-2.5-001", "No extrapolation from narrow tests", "P", "4, 12"),
    ("NIST AI 600-1, MS-2.6-001", "Harm to staff who are exposed", "P", "none: there are no pictures in this report"),
    ("NIST AI 600-1, MS-2.6-007, MS-2.7-007", "Regular evaluation of ways round protective measures; red-teaming", "P",
     "4, 5, 9, 11"),
    ("NIST AI 600-1, MS-2.7-008", "Fine-tuning does not weaken the measures", "P", "4, 5"),
    ("NIST AI 600-1, MG-1.3-002, MG-2.2-005, MG-3.1-003, MG-4.2-001", "Responses to risks; intimate pictures without consent;"
     " third parties' models; published reports", "P", "5, 6, 10"),
    ("ISO/IEC 42001:2023, A.6.2.4", "Verification and validation measures are defined, and criteria for their use specified",
     "S", "3, 5"),
    ("ISO/IEC 42001:2023, A.6.2.6, A.6.2.8, 7.5, 9.1", "Operation and monitoring, event logs, documented information,"
     " evaluation", "S", "2, 6, 7, 11"),
)  # fmt: skip


def sections(report: Report) -> tuple[Section, ...]:
    """Return the three parts of the annex."""
    return _digests(report), Section("glossary", "Annex B Glossary", facts=GLOSSARY), _rules()


def _digests(report: Report) -> Section:
    facts = (
        ("Index", f"{name(report.index)}, filled by definitions {report.index_sha256}"),
        ("Schema of the JSON", "erasure-audit.monthly-report, version 1"),
    )
    columns = (Column("Run", "code"), Column("Plan", "code"), Column("Decision", "code"), Column("Policy", "code"))
    rows = tuple(
        (name(run.run_id), run.plan_sha256, run.decision_sha256 or "none", run.policy_sha256 or "none")
        for run in report.runs
    )
    weights = tuple((name(row.detector), row.weights_sha256) for row in report.instruments)
    tables = (
        Table("SHA-256 of the runs' plans and of the newest decisions on them", columns, rows),
        Table("SHA-256 of the detectors' weights", (Column("Detector"), Column("Weights", "code")), weights),
    )
    return Section("digests", "Annex A Digests", facts=facts, tables=tables)


def _rules() -> Section:
    sentences = (
        "An engineer's reading of which section speaks to which rule. It is no legal advice, and a section that speaks to a rule"
        " does not by itself meet it.",
        "Grades of the sources that were read: P is the primary text or a verbatim copy of it, S a secondary source. The text of"
        " Regulation (EU) 2026/1744 itself was not read.",
    )
    columns = (Column("Rule"), Column("What it asks for, in short"), Column("Grade"), Column("Sections"))
    return Section("rules", "Annex C Rules", sentences, tables=(Table("Sections and rules", columns, RULES),))

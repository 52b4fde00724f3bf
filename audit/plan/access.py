"""What whoever attacks controls in the scenarios of one spec."""

from __future__ import annotations

from audit.attacks import registry
from audit.spec.access import ACCESS, BROUGHT_PROMPTS, PERSONALISED
from audit.spec.document import Spec
from audit.spec.scenarios import AdversarialTextScenario, EmbeddingScenario


def access_of(spec: Spec) -> dict[str, str]:
    """Return scenario -> what whoever attacks controls there. A search for prompts is white box where its method says so."""
    found = {}
    for scenario in spec.scenarios:
        words = ACCESS[scenario.kind]
        if isinstance(scenario, AdversarialTextScenario):
            if scenario.prompts is not None:
                words = BROUGHT_PROMPTS
            else:
                method = registry.ATTACKS.find(scenario.method, f"scenarios.{scenario.name}")
                words = f"prompts that {method.name} finds ({'white' if method.white_box else 'black'} box)"
        elif isinstance(scenario, EmbeddingScenario) and scenario.personalisation is not None:
            words = PERSONALISED
        found[scenario.name] = words
    return found

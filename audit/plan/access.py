"""What whoever attacks controls in the scenarios of one spec."""

from __future__ import annotations

from audit.attacks import registry
from audit.spec.access import access_words
from audit.spec.document import Spec
from audit.spec.scenarios import AdversarialTextScenario


def access_of(spec: Spec) -> dict[str, str]:
    """Return scenario -> what whoever attacks controls there. A search for prompts is white box where its method says so."""
    found = {}
    for scenario in spec.scenarios:
        if isinstance(scenario, AdversarialTextScenario) and scenario.prompts is None:
            method = registry.ATTACKS.find(scenario.method, f"scenarios.{scenario.name}")
            words = f"prompts that {method.name} finds ({'white' if method.white_box else 'black'} box)"
        else:
            words = access_words(scenario.model_dump(mode="json")) or scenario.kind
        found[scenario.name] = words
    return found

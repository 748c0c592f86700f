"""A page of metrics as Prometheus' own parser reads it, and the rules that every page keeps.

What lives here: `Page`. What must not: which metrics there are; tests say that.
"""

from __future__ import annotations

import urllib.request
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

LABELS: Final = {"activity", "build", "code", "kind", "outcome", "queue", "reason", "run_namespace", "workflow"}
"""Every label that a metric may have: none names a run, an instance or anything else that there is ever more of."""
MOST_OF_A_LABEL: Final = 100
"""Values that a label may have in one metric of a test."""


class Page:
    """The metrics of one moment."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def types(self) -> dict[str, str]:
        """Return name and type of every metric, names as queries write them."""
        return {f"{name}_total" if each.type == "counter" else name: each.type for name, each in self.families.items()}

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name with at least these labels."""
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def has(self, name: str) -> bool:
        """Tell whether there is a sample of this name."""
        return any(sample.name == name for family in self.families.values() for sample in family.samples)

    def complaints(self) -> list[str]:
        """Return what breaks the rules; nothing when all is well."""
        found = []
        for family in self.families.values():
            if not family.name.startswith("perdure_"):
                found.append(f"{family.name} does not say whose it is")
            if not family.documentation.endswith("."):
                found.append(f"{family.name} is not described by a sentence")
            if family.type not in ("counter", "gauge", "histogram"):
                found.append(f"{family.name} has the type {family.type}")
            names = {name for sample in family.samples for name in sample.labels} - {"le"}
            found += [f"{family.name} has the label {name}" for name in names - LABELS]
            for name in names:
                values = {sample.labels.get(name) for sample in family.samples}
                if len(values) > MOST_OF_A_LABEL:
                    found.append(f"{family.name} has {len(values)} values of {name}")
        return found


def scrape(url: str) -> Page:
    """Read ``/metrics`` below a URL."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return Page(answer.read().decode())

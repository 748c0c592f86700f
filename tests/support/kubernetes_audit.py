"""What the API server's audit log says about the objects of our group, for tests that count requests.

`kubernetes.py` is the only caller: it sets the log up with this policy and reads it with this function.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted]
rules:
- level: Metadata
  resources: [{group: perdure.dev}]
- level: None
"""


@dataclass(frozen=True)
class AuditEntry:
    """One request, as the API server saw it. `code` is None until it has been answered."""

    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    user_agent: str
    received: str
    code: int | None = None


def read_audit_log(path: Path) -> list[AuditEntry]:
    """Return every request in the log, in the order in which the requests came in."""
    if not path.exists():
        return []
    entries: dict[str, AuditEntry] = {}
    # Each request has a line when it comes in, written before it is carried out, and another when it is answered. A
    # last line without its end is still being written.
    for line in path.read_bytes().split(b"\n")[:-1]:
        event = json.loads(line)
        entry = entries.get(event["auditID"])
        if entry is None:
            target = event.get("objectRef", {})
            entry = AuditEntry(
                verb=event["verb"],
                resource=target.get("resource", ""),
                subresource=target.get("subresource", ""),
                namespace=target.get("namespace", ""),
                name=target.get("name", ""),
                user=event["user"].get("username", ""),
                user_agent=event.get("userAgent", ""),
                received=event["requestReceivedTimestamp"],
            )
        code = event.get("responseStatus", {}).get("code", entry.code)
        entries[event["auditID"]] = replace(entry, code=code)
    return list(entries.values())

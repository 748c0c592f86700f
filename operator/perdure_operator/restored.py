"""Objects and runs that do not know each other because one side was restored from a backup.

What lives here: `recall`, which looks for the run of an object that has none under its UID, and the rule. What must
not: starting runs, statuses. `controller` asks before it starts anything.

The rule: nothing that may have run is started again unless somebody says so. What ran shows in two ways. A status with
a run id that the database does not know: the database is older than the object. A run of this name from before this
cluster had an operator: the object is a restored one, with a new UID, or a new one of an old name, and only its owner
knows which. The owner says so with an annotation, and so can whoever restores many objects at once.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from perdure.client import FullStore
from perdure.manifest import WorkflowInstance, is_uid
from perdure.model.runs import RunSummary

from .abandoned import uid_of
from .objects import RESTORED, Objects
from .status import Refusal

logger = logging.getLogger("perdure.operator")

LOST = "RunLost"
EARLIER = "EarlierRunExists"
REASONS = (LOST, EARLIER)


class Sought(Protocol):
    """An object that is looked at. ``restored`` is what its owner says, without ``instance`` it cannot be started."""

    uid: str
    namespace: str
    name: str
    instance: WorkflowInstance | None
    restored: str


async def recall(
    store: FullStore,
    batch: Sequence[Sought],
    runs: dict[str | None, RunSummary],
    objects: Objects,
    witnessed: Callable[[datetime], bool],
) -> dict[str, Refusal]:
    """Give restored objects their runs back, into ``runs`` too; return why others may not be started, by UID.

    ``witnessed`` tells whether this cluster may have had an operator at a time.
    """
    asked = [each for each in batch if each.uid not in runs and _may_start(each, objects)]
    if not asked:
        return {}
    newest = {
        (run.namespace, run.id): run for run in await store.newest([(each.namespace, each.name) for each in asked])
    }
    refusals: dict[str, Refusal] = {}
    adopted = []
    for each in asked:
        assert each.instance is not None
        run = newest.get((each.namespace, each.name))
        if run is not None and (not is_uid(uid_of(run.key)) or run.key in objects):
            run = None
        if run is not None and each.restored == "true" and run.workflow == each.instance.workflow:
            await store.adopt(run.run_id, each.uid)
            adopted.append(each.uid)
            logger.info("%s/%s has its run %d back", each.namespace, each.name, run.run_id)
        elif (refusal := _refusal(each, run, _run_id(each, objects), witnessed)) is not None:
            refusals[each.uid] = refusal
            logger.warning("%s/%s is not started: %s", each.namespace, each.name, refusal.message)
    if adopted:
        runs.update({run.key: run for run in await store.by_key(adopted)})
    return refusals


def _may_start(sought: Sought, objects: Objects) -> bool:
    """Tell whether the object would be started, and nobody has said that it may be."""
    if sought.instance is None or sought.instance.deleting or sought.restored == "false":
        return False
    known = objects.get(sought.uid)
    return known is None or not known.finished


def _run_id(sought: Sought, objects: Objects) -> str:
    known = objects.get(sought.uid)
    return str(known.status().get("runId") or "") if known is not None else ""


def _refusal(
    sought: Sought, run: RunSummary | None, run_id: str, witnessed: Callable[[datetime], bool]
) -> Refusal | None:
    if run is not None and (sought.restored or run_id or not witnessed(run.created_at)):
        return Refusal(
            EARLIER,
            f"the database has run {run.run_id} of this name, whose object is gone; the annotation {RESTORED}=true "
            "takes it over, =false starts a new run",
            stalled=True,
        )
    if sought.restored or run_id:
        return Refusal(
            LOST,
            f"run {run_id or 'of this name'} is not in the database, perhaps restored from an older backup; the "
            f"annotation {RESTORED}=false starts a new run",
            stalled=True,
        )
    return None

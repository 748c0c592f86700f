"""An order: pack and charge at once, let the customer think for a moment, ask somebody, ship.

It has what real workflows have: steps side by side, a step that fails and is tried again, a timer that survives every
restart, a decision that comes from outside and may not come at all, a typed result. What the activities do is
pretended, apart from one thing: each attempt leaves a line in the file that PERDURE_DEMO_JOURNAL names, so that one can
count them.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from datetime import timedelta

from perdure import RetryPolicy, activity, workflow

COOLING_OFF = timedelta(seconds=1)
APPROVAL = timedelta(hours=1)
FRAGILE = {"teapot": 3.0}
"""Seconds to pack what must not break; everything else takes half a second."""

approve = workflow.signal("approve", bool)


@dataclass
class Receipt:
    payment: str
    boxes: list[str]
    tracking: str | None


@activity.define(timeout=timedelta(seconds=30), retry=RetryPolicy(initial_interval=0.5, max_attempts=5))
async def charge(card: str, amount: int) -> str:
    journal()
    if activity.info().attempt == 1:
        raise ConnectionError("the payment service is busy")
    # The bank sees the same key whenever this step is tried, and so takes the money once.
    return f"payment {activity.info().idempotency_key} of {amount} on card …{card[-4:]}"


@activity.define(timeout=timedelta(seconds=30))
def pack(item: str) -> str:
    journal()
    time.sleep(FRAGILE.get(item, 0.5))
    return f"box with {item}"


@activity.define
async def refund(payment: str) -> str:
    journal()
    return f"refund of {payment}"


@activity.define(timeout=timedelta(seconds=30))
async def ship(boxes: list[str]) -> str:
    journal()
    return f"parcel of {len(boxes)} boxes"


@workflow.define
async def order(card: str, items: list[str], total: int) -> Receipt:
    workflow.set_status("packing and charging")
    payment, *boxes = await asyncio.gather(charge(card, total), *(pack(item) for item in items))

    workflow.set_status("the customer may still change their mind")
    await asyncio.sleep(COOLING_OFF.total_seconds())

    workflow.set_status("waiting for somebody to approve")
    try:
        async with asyncio.timeout(APPROVAL.total_seconds()):
            approved = await approve.receive()
    except TimeoutError:
        approved = False

    if approved:
        workflow.set_status("approved")
        return Receipt(payment, boxes, await ship(boxes))
    workflow.set_status("not approved")
    await refund(payment)
    return Receipt(payment, boxes, tracking=None)


def journal() -> None:
    """Leave a line for this attempt: the step, its activity, the number of the attempt, the process."""
    path = os.environ.get("PERDURE_DEMO_JOURNAL")
    if path:
        attempt = activity.info()
        with open(path, "a", encoding="utf-8") as lines:  # noqa: PTH123  # appending one short line is atomic
            lines.write(f"{attempt.idempotency_key}\t{attempt.name}\t{attempt.attempt}\t{os.getpid()}\n")

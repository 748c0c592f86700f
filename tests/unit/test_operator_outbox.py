"""When statuses go out: coalesced, paced and no faster than the rate."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.model.runs import RunState
from perdure_operator.outbox import Letter, Outbox, TokenBucket
from perdure_operator.status import Status, project
from tests.unit.test_operator_status import run

GOING_ON = project(run(), 1)
ENDED = project(run(RunState.COMPLETED), 1)


def going_on(progress: str) -> Status:
    return project(run(progress=progress), 1)


def test_the_first_status_of_a_run_that_goes_on_waits_for_something_more_telling() -> None:
    outbox = Outbox(1.0)
    outbox.put("a", GOING_ON, [1], now=10.0, written_at=None)
    assert outbox.take(10.9) is None
    outbox.put("a", ENDED, [2], now=10.9, written_at=None)
    letter = outbox.take(10.9)
    assert letter is not None
    assert (letter.status, letter.numbers) == (ENDED, {1, 2})
    outbox.written(letter)
    assert outbox.take(99.0) is None
    assert len(outbox) == 0


def test_a_status_is_not_held_back_for_longer_because_another_one_comes() -> None:
    outbox = Outbox(1.0)
    outbox.put("a", going_on("1"), [1], now=10.0, written_at=None)
    outbox.put("a", going_on("2"), [2], now=10.9, written_at=None)
    letter = outbox.take(11.0)
    assert letter is not None
    assert letter.status.fields["progress"] == "2"


def test_progress_goes_out_at_most_once_per_pause() -> None:
    outbox = Outbox(1.0)
    outbox.put("a", going_on("1"), [1], now=10.2, written_at=10.0)
    assert outbox.take(10.9) is None
    letter = outbox.take(11.0)
    assert letter is not None
    outbox.put("a", going_on("2"), [2], now=11.01, written_at=10.0)
    assert outbox.take(20.0) is None, "the object has a write under way"
    outbox.written(letter)
    assert outbox.take(11.5) is None
    assert outbox.take(12.02) is not None


def test_an_ending_waits_for_nothing_but_the_write_under_way() -> None:
    outbox = Outbox(1.0)
    outbox.put("a", GOING_ON, [1], now=10.0, written_at=None)
    letter = outbox.take(11.0)
    assert letter is not None
    outbox.put("a", ENDED, [2], now=11.0, written_at=None)
    assert outbox.take(11.0) is None
    outbox.written(letter)
    last = outbox.take(11.0)
    assert last is not None
    assert last.numbers == {2}


def test_what_could_not_be_written_comes_back_in_its_newest_form_and_not_too_soon() -> None:
    outbox = Outbox(1.0)
    outbox.put("a", GOING_ON, [1], now=10.0, written_at=None)
    letter = outbox.take(11.0)
    assert letter is not None
    outbox.put("a", ENDED, [2], now=11.1, written_at=None)
    outbox.put_back(letter, not_before=15.0)
    assert outbox.struggling == 1
    outbox.put("a", ENDED, [3], now=12.0, written_at=None)
    assert outbox.take(14.9) is None
    again = outbox.take(15.0)
    assert again is not None
    assert (again.status, again.numbers, again.attempts) == (ENDED, {1, 2, 3}, 1)


def test_what_waits_for_an_object_that_is_gone_is_dropped() -> None:
    outbox = Outbox(1.0)
    outbox.put("a", ENDED, [1], now=10.0, written_at=None)
    assert outbox.drop("a") == {1}
    assert outbox.drop("a") == set()
    assert outbox.take(11.0) is None


def test_objects_are_served_in_the_order_in_which_they_are_due() -> None:
    outbox = Outbox(1.0)
    for number, uid in enumerate("abc"):
        outbox.put(uid, GOING_ON, [], now=10.0 + number / 10, written_at=None)
    outbox.put("d", ENDED, [], now=10.5, written_at=None)
    taken = [letter.uid for letter in (outbox.take(11.3) for _ in range(4)) if letter is not None]
    assert taken == ["d", "a", "b", "c"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from(["put", "put", "take", "done", "back"])),
        max_size=60,
    )
)
def test_no_number_is_ever_lost(steps: list[tuple[str, bool, str]]) -> None:
    outbox = Outbox(1.0)
    settled: set[int] = set()
    under_way: list[Letter] = []
    now = 0.0
    for number, (uid, ended, step) in enumerate(steps):
        now += 0.3
        if step == "put":
            outbox.put(uid, ENDED if ended else GOING_ON, [number], now, None)
        elif step == "take" and (letter := outbox.take(now)):
            assert letter.uid not in {other.uid for other in under_way}
            under_way.append(letter)
        elif under_way and step == "done":
            letter = under_way.pop()
            settled |= letter.numbers
            outbox.written(letter)
        elif under_way and step == "back":
            outbox.put_back(under_way.pop(), now + 1)
    while under_way:
        outbox.put_back(under_way.pop(), now)
    now += 100
    while letter := outbox.take(now):
        settled |= letter.numbers
        outbox.written(letter)
    assert settled == {number for number, (_, _, step) in enumerate(steps) if step == "put"}


def test_the_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=10.0, burst=3)
    for _ in range(3):
        assert bucket.delay(100.0) == 0.0
        bucket.spend()
    assert 0.09 < bucket.delay(100.0) <= 0.1
    assert bucket.delay(100.11) == 0.0
    bucket.spend()
    assert bucket.delay(100.11) > 0.0
    assert bucket.delay(200.0) == 0.0

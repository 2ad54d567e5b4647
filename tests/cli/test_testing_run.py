"""`pipeline.testing.run`, which user tests call; here because inside a loop it needs a thread."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline import Context, Message, MessageTooLarge, Reject, Retry, handler
from pipeline.testing import run


@handler(state=dict)
async def count(body: str, state: dict[str, int], context: Context) -> Any:
    if body == "bad":
        return Reject("no use")
    if body == "later" and context.attempt == 1:
        return Retry(30.0)
    state[body] = state.get(body, 0) + 1
    context.send("audit", Message(body.encode()))
    return None


@handler
def plain(body: str) -> None:
    if body == "bad":
        raise ValueError(body)


@pytest.mark.spec("T1")
def test_a_handler_is_run_as_on_ray_without_waiting() -> None:
    """States, dead letters, sent messages, and the time it would have taken."""
    result = run(count, [Message(body, session="s") for body in (b"a", b"later", b"bad", b"a")])
    assert result.states == {"s": {"a": 2, "later": 1}}
    assert [letter.body for letter in result.dead_letters] == [b"bad"]
    assert [sent.message.body for sent in result.sent] == [b"a", b"later", b"a"]
    assert len({sent.message.id for sent in result.sent}) == 3
    assert result.completed == 3
    assert result.seconds >= 30.0


@pytest.mark.spec("T1")
async def test_it_works_inside_a_running_loop() -> None:
    """A notebook, or an async test, has a loop already."""
    assert run(plain, [Message(b"x"), Message(b"bad")], fifo=True, max_attempts=1).completed == 1


@pytest.mark.spec("T1")
async def test_an_error_inside_a_running_loop_is_raised_here() -> None:
    """What goes wrong in the thread is raised in the caller's."""
    with pytest.raises(MessageTooLarge, match="max_message_size"):
        run(plain, [Message(b"x" * 2_000_000)])


@handler
def rejects(body: bytes) -> Any:
    return Reject("all")


@handler
def forgets_the_brackets(body: bytes) -> Any:
    return Reject


@handler(state=dict)
def two_dicts(body: dict[str, int], state: dict[str, int], context: Context) -> None:
    state.update(body)


@handler
def sends_bytes(body: bytes, context: Context) -> None:
    context.send("audit", body)  # type: ignore[arg-type]


@pytest.mark.spec("T1", "M2")
def test_a_message_for_later_is_handled_later() -> None:
    """`not_before` is waited for, which costs nothing here."""
    later = datetime.now(UTC) + timedelta(hours=1)
    result = run(plain, [Message(b"x", not_before=later)])
    assert result.completed == 1
    assert 3_590 < result.seconds < 3_610


@pytest.mark.spec("T1")
def test_every_dead_letter_is_in_the_result() -> None:
    """Also more than one receive brings; and messages may come from a generator."""
    result = run(rejects, (Message(b"x") for _ in range(4_200)))  # type: ignore[arg-type]
    assert len(result.dead_letters) == 4_200


@pytest.mark.spec("H2")
def test_a_result_that_is_a_class_completes_nothing() -> None:
    """`return Reject` without brackets is a mistake that is told, not a completion."""
    result = run(forgets_the_brackets, [Message(b"x")])
    assert result.completed == 0
    assert "returned the class Reject" in str(result.dead_letters[0].dead_letter_description)


@pytest.mark.spec("H1", "M3")
def test_body_and_state_may_be_of_one_type() -> None:
    """Parameters named body, state and context need no other hint."""
    result = run(two_dicts, [Message(b'{"a": 1}', session="s")])
    assert result.states == {"s": {"a": 1}}


@pytest.mark.spec("H3")
def test_what_is_no_message_can_not_be_sent() -> None:
    """The handler's own error, retried and dead-lettered with the rule."""
    result = run(sends_bytes, [Message(b"x")])
    assert "must be a Message" in str(result.dead_letters[0].dead_letter_description)

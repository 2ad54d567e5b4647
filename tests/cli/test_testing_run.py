"""`pipeline.testing.run`, which user tests call; here because inside a loop it needs a thread."""

from __future__ import annotations

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

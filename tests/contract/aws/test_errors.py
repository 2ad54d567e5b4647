"""Each row of the error table, provoked over the socket, with both clients (SPEC P10, P12, R1)."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline import errors
from pipeline.errors import ProviderError, QueueError
from pipeline.message import Message
from pipeline.providers.aws.calls import CHANGE, DELETE, RECEIVE, SEND
from pipeline.providers.aws.errors import from_code
from pipeline.providers.configured import Limits
from tests.contract.aws.own import STANDARD, Own, both_clients, own, receipts, want
from tests.sqs import faults
from tests.sqs.endpoint import Endpoint
from tests.sqs.errors import SqsError
from tests.sqs.faults import Partial, Refusal
from tests.sqs.rig import KEY, KEYS, SECRET
from tests.sqs.signing import Key, Signatures

Kind = type[QueueError]
OLD = "AWS.SimpleQueueService."


def refusal(code: str, status: int = 400) -> faults.Fault:
    """An answer with that code."""
    return Refusal(SqsError(code, f"{code} it is", status))


CALLS: tuple[tuple[faults.Fault, Kind, bool], ...] = (
    # what is answered, what it becomes, whether trying again may help
    (faults.throttle(), errors.Throttled, True),
    (faults.throttle("RequestThrottled"), errors.Throttled, True),
    (faults.over_limit(), errors.Throttled, True),
    (refusal("QueueDoesNotExist"), errors.QueueNotFound, False),
    (refusal("NonExistentQueue"), errors.QueueNotFound, False),
    (refusal(OLD + "NonExistentQueue"), errors.QueueNotFound, False),
    (refusal("ReceiptHandleIsInvalid"), errors.MessageNotFound, False),
    (refusal("MessageNotInflight"), errors.MessageLockLost, False),
    (faults.access_denied(), errors.PermissionDenied, False),
    (refusal("AccessDeniedException", 403), errors.PermissionDenied, False),
    (refusal("KmsAccessDenied"), errors.PermissionDenied, False),
    (refusal("SignatureDoesNotMatch", 403), errors.AuthenticationFailed, False),
    (refusal("InvalidClientTokenId", 403), errors.AuthenticationFailed, False),
    (refusal("UnrecognizedClientException", 403), errors.AuthenticationFailed, False),
    (refusal("ExpiredToken", 403), errors.AuthenticationFailed, False),
    (refusal("ExpiredTokenException", 403), errors.AuthenticationFailed, False),
    (refusal("BatchRequestTooLong"), errors.BatchTooLarge, False),
    (refusal("TooManyEntriesInBatchRequest"), errors.BatchTooLarge, False),
    (refusal("InvalidMessageContents"), errors.SerializationError, False),
    (refusal("UnsupportedOperation"), errors.Unsupported, False),
    (refusal("InvalidAttributeName"), ProviderError, False),
    (faults.server_error(500), ProviderError, True),
    (faults.server_error(503), ProviderError, True),
    (refusal("SlowDown", 429), ProviderError, True),
    (faults.Refuse(), errors.ConnectionFailed, True),
    (faults.CutReply(), errors.ConnectionFailed, True),
    (faults.CutReply(0), errors.ConnectionFailed, True),
    (faults.ApplyThenCut(), errors.ConnectionFailed, True),
)
ENTRIES: tuple[tuple[str, bool, Kind, bool], ...] = (
    # the code, whether it is the sender's fault, what it becomes, whether trying again may help
    ("InternalError", False, ProviderError, True),
    ("InvalidParameterValue", True, ProviderError, False),
    ("RequestThrottled", True, errors.Throttled, True),
    (OLD + "NonExistentQueue", True, errors.QueueNotFound, False),
    ("AccessDenied", True, errors.PermissionDenied, False),
    ("InvalidMessageContents", True, errors.SerializationError, False),
)
ABOUT_A_RECEIPT: tuple[tuple[str, Kind], ...] = (
    ("ReceiptHandleIsInvalid", errors.MessageNotFound),
    ("InvalidParameterValue", errors.MessageLockLost),
    (OLD + "MessageNotInflight", errors.MessageLockLost),
)


async def refused(call: Awaitable[object]) -> QueueError:
    """What a call raises."""
    with pytest.raises(QueueError) as caught:
        await call
    return caught.value


def check(error: object, kind: Kind, *, transient: bool, told: object) -> QueueError:
    """It is of that kind exactly."""
    assert type(error) is kind, (told, error)
    assert isinstance(error, QueueError)
    assert error.transient is transient, (told, error)
    return error


def check_cause(error: QueueError, told: object) -> None:
    """What lies below it is there, and travels without it."""
    assert error.__cause__ is not None, told
    assert error.causes, told
    assert pickle.loads(pickle.dumps(error)).causes == error.causes


@both_clients
@pytest.mark.spec("P10", "P12", "R1")
async def test_a_refused_call(client: str) -> None:
    """Each answer becomes its own kind of error, with its cause, after one call."""
    async with own(client, STANDARD) as at:
        sender, lane = await at.provider.sender(at.queue), await at.receiver()
        for fault, kind, transient in CALLS:
            before = at.sqs.calls.total()
            at.sqs.faults.next(SEND, fault)
            [sent] = await sender.send([Message(b"x")])
            check_cause(check(sent, kind, transient=transient, told=fault), fault)
            at.sqs.faults.next(RECEIVE, fault)
            error = await refused(lane.receive(want()))
            check_cause(check(error, kind, transient=transient, told=fault), fault)
            assert "SendMessageBatch: queue orders: " in str(sent)
            assert "ReceiveMessage: queue orders: " in str(error)
            assert at.sqs.calls.total() == before + 2, (fault, "nothing is retried underneath")


@pytest.mark.spec("P8", "P10")
@pytest.mark.parametrize(
    "code", ["SignatureDoesNotMatch", "InvalidClientTokenId", "ExpiredToken", "InvalidAccessKeyId"]
)
def test_a_refusal_is_readable_where_secrets_are_masked(code: str) -> None:
    """Its code is no secret's name, and it says what to look at."""
    text = str(from_code(SEND, code, "The key is bad."))
    assert errors.mask_secrets(text) == text
    assert f"The key is bad. ({code}): look at the connection's keys or profile" in text


@both_clients
@pytest.mark.spec("P3", "P10", "P12")
async def test_an_entry_of_a_batch_that_failed(client: str) -> None:
    """It alone fails, with its kind; the others are done."""
    async with own(client, STANDARD) as at:
        sender = await at.provider.sender(at.queue)
        for code, fault, kind, transient in ENTRIES:
            at.sqs.faults.next(SEND, Partial(lambda one: one["Id"] == "1", code, fault))
            sent = await sender.send([Message(b"x")] * 3)
            check(sent[1], kind, transient=transient, told=code)
            assert "SendMessageBatch: queue orders: " in str(sent[1])
            assert [isinstance(one, QueueError) for one in sent] == [False, True, False]
        lane = await at.receiver()
        for code, kind in ABOUT_A_RECEIPT:
            for action, settle in ((DELETE, lane.complete), (CHANGE, lane.release)):
                held = receipts(await lane.receive(want(2)))
                at.sqs.faults.next(action, Partial(lambda one: one["Id"] == "1", code, True))
                failures = await settle(held)
                assert list(failures) == [1]
                check(failures[1], kind, transient=False, told=(code, action))


@both_clients
@pytest.mark.spec("P3", "P10")
async def test_an_entry_without_a_result(client: str) -> None:
    """Nobody knows whether it was done: it is tried again, never taken for done."""
    async with own(client, STANDARD) as at:
        await at.fill("a")
        sender, lane = await at.provider.sender(at.queue), await at.receiver()
        held = receipts(await lane.receive(want(1)))
        for action in (SEND, DELETE):
            at.sqs.faults.next(action, faults.Empty())
        [sent] = await sender.send([Message(b"x")])
        failures = await lane.complete(held)
        for error in (sent, failures[0]):
            check(error, ProviderError, transient=True, told="no result")
        assert not await lane.complete(held)


@both_clients
@pytest.mark.spec("P10")
@pytest.mark.parametrize("queue", ["orders", "orders.fifo"])
async def test_a_handle_that_expired_or_is_another_queues(client: str, queue: str) -> None:
    """SQS says so in its own words; a standard queue says nothing of one that expired."""
    async with own(client, queue) as at:
        at.sqs.create("other.fifo" if at.fifo else "other")
        await at.fill("a", "b")
        lane = await at.receiver()
        expired, foreign = receipts(await lane.receive(want()))
        foreign.message = {**foreign.message, "ReceiptHandle": "AQEBforeign"}
        at.sqs.expire(queue)
        failures = await lane.complete([expired, foreign])
        check(failures[1], errors.MessageNotFound, transient=False, told="foreign")
        if at.fifo:
            check(failures[0], errors.MessageNotFound, transient=False, told="expired")


@both_clients
@pytest.mark.spec("P10", "R1")
async def test_how_long_throttling_asks_to_wait(client: str) -> None:
    """`retry_after` is what the header says, or nothing."""
    async with own(client, STANDARD) as at:
        lane = await at.receiver()
        for asked in (None, 7.0, 0.5):
            at.sqs.faults.next(RECEIVE, faults.throttle(retry_after=asked))
            assert (await refused(lane.receive(want()))).retry_after == asked


@both_clients
@pytest.mark.spec("P2", "P6", "P10", "P12")
async def test_a_reply_that_never_comes(client: str) -> None:
    """Is a time-out after the configured seconds, whether it was done or not."""
    async with own(client, STANDARD) as at:
        await at.fill("a", "b")
        quick = await at.another()
        sender, lane = await quick.sender(at.queue), await quick.receiver(at.queue)
        held = receipts(await lane.receive(want(1)))
        # Not before: on a busy machine the first call of a client may take longer.
        quick._sdk.limits = Limits(5.0, 0.6, 0.6)
        for action in (SEND, DELETE, RECEIVE):
            at.sqs.faults.next(action, faults.Swallow())
        before = at.sqs.calls.total()
        [sent], done, received = await asyncio.gather(
            sender.send([Message(b"x")]),
            lane.complete(held),
            refused(lane.receive(want())),
        )
        for error in (sent, done[0], received):
            check_cause(check(error, errors.Timeout, transient=True, told="swallowed"), "swallowed")
            assert f"{at.sqs.url} gave no answer within 0.6 s" in str(error)
        assert at.sqs.calls.total() == before + 3


@both_clients
@pytest.mark.spec("P10", "P12")
async def test_a_connection_that_is_refused(client: str) -> None:
    """Nobody listens: `ConnectionFailed`; when somebody does again, it works."""
    async with own(client, STANDARD) as at:
        sender, lane = await at.provider.sender(at.queue), await at.receiver()
        await at.sqs.down()
        [sent] = await sender.send([Message(b"x")])
        check_cause(check(sent, errors.ConnectionFailed, transient=True, told="send"), "send")
        error = await refused(lane.receive(want()))
        check_cause(check(error, errors.ConnectionFailed, transient=True, told="receive"), "")
        error = await refused(at.provider.depth(at.queue))
        check_cause(check(error, errors.ConnectionFailed, transient=True, told="depth"), "")
        await at.sqs.up()
        assert not isinstance((await sender.send([Message(b"x")]))[0], QueueError)


@both_clients
@pytest.mark.spec("P8", "P10")
async def test_keys_that_are_refused(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature, a key or a token that does not hold is `AuthenticationFailed` everywhere."""
    signatures = Signatures(KEYS)
    async with own(client, STANDARD, sqs=Endpoint(signatures=signatures)) as at:
        monkeypatch.setenv("QR_TEST_TOKEN", "a-session-token")
        sender, lane = await at.provider.sender(at.queue), await at.receiver()
        assert not isinstance((await sender.send([Message(b"x")]))[0], QueueError)
        for keys in (
            {KEY: Key("another secret")},
            {},
            {KEY: Key(SECRET, token="another")},
            {KEY: Key(SECRET, expires=0.0)},
        ):
            signatures.keys = dict(keys)
            [sent] = await sender.send([Message(b"x")])
            for error in (
                sent,
                await refused(lane.receive(want())),
                await refused(at.provider.depth(at.queue)),
                await refused(at.another()),
            ):
                check_cause(
                    check(error, errors.AuthenticationFailed, transient=False, told=keys), keys
                )
                assert SECRET not in repr(error.causes) + str(error)
        signatures.keys = {KEY: Key(SECRET, token="a-session-token")}
        good = await at.another(session_token="env:QR_TEST_TOKEN")
        assert (await good.depth(at.queue)).available == 1


@both_clients
@pytest.mark.spec("P8", "P10")
async def test_a_refused_signature_tells_no_token(client: str) -> None:
    """SQS explains it with all that was signed; the session's token is masked everywhere."""
    told = (
        "The Canonical String for this request should have been 'POST\n/\n\n"
        "x-amz-date:20260101T000000Z\nx-amz-security-token:IQoJb3Jp+hunter2/==\n'"
    )
    async with own(client, STANDARD) as at:
        fault = Refusal(SqsError("SignatureDoesNotMatch", told.replace("\n", " "), 403))
        sender, lane = await at.provider.sender(at.queue), await at.receiver()
        at.sqs.faults.next("*", fault, count=3)
        [sent] = await sender.send([Message(b"x")])
        assert isinstance(sent, errors.AuthenticationFailed)
        for error in (
            sent,
            await refused(lane.receive(want())),
            await refused(at.provider.depth(at.queue)),
        ):
            assert isinstance(error, errors.AuthenticationFailed)
            below: BaseException | None = error
            while below is not None:
                assert "hunter2" not in f"{below}{below!r}{vars(below)}"
                below = below.__cause__ or below.__context__
            assert "hunter2" not in repr(error.causes)


@both_clients
@pytest.mark.spec("P8", "P9", "P10")
async def test_a_proxy_that_is_not_there(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is `ConnectionFailed`, without the proxy's password."""
    async with own(client, STANDARD) as at:
        monkeypatch.setenv("QR_TEST_PROXY", "http://user:hunter2@127.0.0.1:9")
        before = at.sqs.calls.total()
        error = await refused(at.another(proxy="env:QR_TEST_PROXY"))
        check_cause(check(error, errors.ConnectionFailed, transient=True, told="proxy"), "proxy")
        assert "hunter2" not in f"{error}{error!r}{error.causes}"
        for hot in await hot_calls(at, "QR_TEST_PROXY"):
            check(hot, errors.ConnectionFailed, transient=True, told="hot")
            assert "hunter2" not in f"{hot}{hot!r}{hot.causes}"
        assert at.sqs.calls.total() == before + 2, "no call went past the proxy, but for set-up's"


async def hot_calls(at: Own, proxy: str) -> list[QueueError]:
    """What the hot calls say behind a proxy: the queue is found without one."""
    provider = await at.another()
    sdk = provider._sdk
    sdk.settings = sdk.settings.model_copy(update={"proxy": f"env:{proxy}"})
    await provider._disconnect()
    await sdk.start()
    if sdk.settings.client == "lean":
        from pipeline.providers.aws.lean import Lean

        provider._lean = Lean(sdk)
    sender, lane = await provider.sender(at.queue), await provider.receiver(at.queue)
    [sent] = await sender.send([Message(b"x")])
    assert isinstance(sent, QueueError)
    return [sent, await refused(lane.receive(want()))]


@both_clients
@pytest.mark.spec("P3", "P10")
async def test_a_message_over_the_queues_own_limit(client: str) -> None:
    """Is refused without a call; one of exactly the limit goes."""
    async with own(client, attributes={"MaximumMessageSize": "1024"}) as at:
        assert at.provider.capabilities(at.queue).max_message_size == 1_024
        sender = await at.provider.sender(at.queue)
        message = Message(b"", session="g")
        spare = 1_024
        for _ in range(1_024):
            made = sender._made(replace(message, body=b"x" * spare), "g")
            if not isinstance(made, QueueError):
                break
            spare -= 1
        fits, over = b"x" * spare, b"x" * (spare + 1)
        too_large, behind = await sender.send(
            [Message(over, id=message.id, session="g"), Message(b"behind", session="g")]
        )
        error = check(too_large, errors.MessageTooLarge, transient=False, told="over")
        assert isinstance(error, errors.MessageTooLarge)
        assert (error.size, error.max_size) == (1_025, 1_024)
        assert behind is error
        assert at.sqs.calls[SEND] == 0
        [sent] = await sender.send([replace(message, body=fits)])
        assert not isinstance(sent, QueueError)


Operation = Callable[[Own, Any, Any], Awaitable[object]]
RETRIED: tuple[tuple[str, Operation], ...] = (
    (SEND, lambda at, client, _: client.send(at.queue, Message(b"x"))),
    (RECEIVE, lambda at, client, _: client.receive(at.queue, wait=0)),
    (DELETE, lambda at, client, held: client.complete(held)),
    (CHANGE, lambda at, client, held: client.release(held)),
    (CHANGE, lambda at, client, held: client.renew(held)),
)


@both_clients
@pytest.mark.spec("P12", "R1")
async def test_three_attempts_in_all(client: str) -> None:
    """What is transient is tried three times, what isn't once, and nothing underneath repeats."""
    more = {"breaker": {"failures": 1_000}}
    async with own(client, STANDARD, more=more) as at, at.client() as caller:
        for action, call in RETRIED:
            for fault, tries in (
                (faults.server_error(503), 3),
                (faults.CutReply(0), 3),
                (faults.access_denied(), 1),
            ):
                at.sqs.service.queues[at.queue].purge()
                await at.fill("x")
                [held] = await caller.receive(at.queue, wait=1)
                before = at.sqs.calls[action]
                at.sqs.faults.next(action, fault, count=tries)
                error = await failure(call(at, caller, held))
                assert isinstance(error, QueueError), (action, fault)
                assert at.sqs.calls[action] == before + tries, (action, fault, error)


async def failure(call: Awaitable[object]) -> object:
    """What a call raises, or gives back for the one message it is about."""
    try:
        found = await call
    except QueueError as error:
        return error
    assert isinstance(found, dict), found
    [error] = found.values()
    return error


@both_clients
@pytest.mark.spec("P12", "R1")
async def test_the_third_attempt_works(client: str) -> None:
    """Two failures are noticed by nobody; of a batch only what failed is sent again."""
    async with own(client, STANDARD) as at, at.client() as caller:
        at.sqs.faults.next(SEND, faults.server_error(), count=2)
        await caller.send(at.queue, Message(b"a"))
        assert at.sqs.calls[SEND] == 3
        asked: list[int] = []
        at.sqs.faults.next(SEND, Partial(lambda one: one["Id"] in "13"))
        at.sqs.faults.next(
            SEND, faults.throttle(), when=lambda call: bool(asked.append(len(call["Entries"])))
        )
        await caller.send_many(at.queue, [Message(b"x") for _ in range(5)])
        assert asked == [2]
        assert at.sqs.depth(at.queue) == (6, 0, 0)

"""Messages that Apache Qpid Proton encoded are changed here, and read by it again."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.servicebus.amqp.sections import (
    properties,
    split,
    with_application_properties,
    with_message_id,
)
from tests.servicebus.tools import needed

try:
    from proton import Message
except ImportError:
    needed("python-qpid-proton is not installed (it needs a C compiler)")

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_MAPS = st.dictionaries(_TEXT, st.integers(-9, 9) | _TEXT | st.booleans() | st.none(), max_size=3)
_MESSAGES = st.fixed_dictionaries(
    {
        "body": _TEXT | st.binary(max_size=300) | st.lists(st.integers(-9, 9)) | _MAPS,
        "id": _TEXT | st.uuids() | st.none(),
        "subject": _TEXT | st.none(),
        "group_id": _TEXT | st.none(),
        "durable": st.booleans(),
        "properties": _MAPS | st.none(),
        "annotations": st.dictionaries(st.text("abc", min_size=1), _TEXT, max_size=2) | st.none(),
    }
)


def _seen(message: Any) -> dict[str, Any]:
    names = ("body", "id", "subject", "group_id", "durable")
    # An empty section and none are the same to a reader.
    maps = {name: getattr(message, name) or {} for name in ("properties", "annotations")}
    return {name: getattr(message, name) for name in names} | maps


@given(_MESSAGES, _TEXT, _MAPS)
def test_proton_sees_the_changes_and_no_others(
    fields: dict[str, Any], message_id: str, extra: dict[str, Any]
) -> None:
    sent = Message(**fields)
    encoded = bytes(sent.encode())
    sections = split(encoded)
    assert properties(sections.bare)[:1] in ([sent.id], [])
    assert sections.annotations == (fields["annotations"] or {})
    before = encoded[: len(encoded) - len(sections.bare)]
    assert encoded == before + sections.bare

    bare = with_application_properties(with_message_id(sections.bare, message_id), extra)
    got = Message()
    got.decode(before + bare)
    merged = (fields["properties"] or {}) | extra
    assert _seen(got) == _seen(sent) | {"id": message_id, "properties": merged}

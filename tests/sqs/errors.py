"""The errors that SQS answers with, each with its name in the JSON protocol and in the older one.

botocore reports the older name, which the service sends along in the header `x-amzn-query-error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_SQS, _CORAL = "com.amazonaws.sqs#", "com.amazon.coral.service#"
_OLD = "AWS.SimpleQueueService."

_TYPES = {
    "InvalidParameterValue": _CORAL + "InvalidParameterValueException",
    "MissingParameter": _CORAL + "MissingRequiredParameterException",
    "AccessDenied": _CORAL + "AccessDeniedException",
    "InvalidClientTokenId": _CORAL + "UnrecognizedClientException",
    "SignatureDoesNotMatch": _CORAL + "InvalidSignatureException",
    "ExpiredToken": _CORAL + "ExpiredTokenException",
    "MissingAuthenticationToken": _CORAL + "MissingAuthenticationTokenException",
    "ThrottlingException": _CORAL + "ThrottlingException",
    "InvalidAction": _CORAL + "UnknownOperationException",
    "InternalFailure": _CORAL + "InternalFailure",
    "ServiceUnavailable": _CORAL + "ServiceUnavailableException",
}
_QUERY_CODES = {
    "QueueDoesNotExist": _OLD + "NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    **{
        name: _OLD + name
        for name in (
            "BatchEntryIdsNotDistinct",
            "BatchRequestTooLong",
            "EmptyBatchRequest",
            "InvalidBatchEntryId",
            "MessageNotInflight",
            "PurgeQueueInProgress",
            "TooManyEntriesInBatchRequest",
            "UnsupportedOperation",
        )
    },
}
_NONE: Mapping[str, str] = MappingProxyType({})


class SqsError(Exception):
    """What a call is answered with in place of a result.

    Args:
        code: its name in the JSON protocol, without a namespace.
        message: for people.
        status: of HTTP.
        headers: beside the usual ones.
    """

    def __init__(
        self, code: str, message: str, status: int = 400, headers: Mapping[str, str] = _NONE
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.headers = headers

    @property
    def type(self) -> str:
        """What the reply calls `__type`."""
        return _TYPES.get(self.code, _SQS + self.code)

    @property
    def query_code(self) -> str:
        """Its name in the older protocol, which is also what `Failed[]` calls it."""
        return _QUERY_CODES.get(self.code, self.code)

    @property
    def sender_fault(self) -> bool:
        """Whether the caller did wrong, and would do so again."""
        return self.status < 500


def invalid_value(value: object, parameter: str, reason: str) -> SqsError:
    """A parameter that can't be had."""
    return SqsError(
        "InvalidParameterValue",
        f"Value {value} for parameter {parameter} is invalid. Reason: {reason}",
    )


def missing(parameter: str) -> SqsError:
    """A parameter that has to be there."""
    return SqsError("MissingParameter", f"The request must contain the parameter {parameter}.")


def no_queue() -> SqsError:
    """A queue that isn't there."""
    return SqsError("QueueDoesNotExist", "The specified queue does not exist.")

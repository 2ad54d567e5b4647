"""queue-runtime: message queues, processed in order, with state, on one machine or on Ray.

What a user imports stands here: messages, the client, handlers, session keys and errors. The
runtime that runs handlers on Ray is `actors.Runtime`; what tests of handlers need is
`pipeline.testing`.
"""

from pipeline.batch import MessageBatch
from pipeline.client import ClientSession, QueueClient
from pipeline.errors import (
    AuthenticationFailed,
    BatchTooLarge,
    CircuitOpen,
    Closed,
    ConfigurationError,
    ConnectionFailed,
    CryptoError,
    HandlerTimeout,
    MessageLockLost,
    MessageNotFound,
    MessageTooLarge,
    PermissionDenied,
    ProviderError,
    QueueError,
    QueueFull,
    QueueNotFound,
    SerializationError,
    SessionLocked,
    SessionLockLost,
    SessionNotFound,
    StateConflict,
    Throttled,
    Timeout,
    UnencryptedMessage,
    Unsupported,
    ValidationError,
)
from pipeline.handlers.api import Context, Handler, Reject, Retry, States, handler
from pipeline.message import Delivery, Lock, Message, TraceContext
from pipeline.names import EncryptionKeyId, MessageId, QueueName, ReceiptHandle, SessionId
from pipeline.session_keys import Composite, Computed, Field, FirstOf, NoSession

__all__ = [
    "AuthenticationFailed",
    "BatchTooLarge",
    "CircuitOpen",
    "ClientSession",
    "Closed",
    "Composite",
    "Computed",
    "ConfigurationError",
    "ConnectionFailed",
    "Context",
    "CryptoError",
    "Delivery",
    "EncryptionKeyId",
    "Field",
    "FirstOf",
    "Handler",
    "HandlerTimeout",
    "Lock",
    "Message",
    "MessageBatch",
    "MessageId",
    "MessageLockLost",
    "MessageNotFound",
    "MessageTooLarge",
    "NoSession",
    "PermissionDenied",
    "ProviderError",
    "QueueClient",
    "QueueError",
    "QueueFull",
    "QueueName",
    "QueueNotFound",
    "ReceiptHandle",
    "Reject",
    "Retry",
    "SerializationError",
    "SessionId",
    "SessionLockLost",
    "SessionLocked",
    "SessionNotFound",
    "StateConflict",
    "States",
    "Throttled",
    "Timeout",
    "TraceContext",
    "UnencryptedMessage",
    "Unsupported",
    "ValidationError",
    "handler",
]

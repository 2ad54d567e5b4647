"""The client: send, receive, settle and sessions, without Ray.

`queue_client` is what a person uses; `session` a held session; `settling` and `settler` end what
was received; `leases` knows what is in hand; `lanes` and `connections` keep what is open; `bodies`
turns pydantic objects into messages. No background work: nothing is renewed behind the user's back.
"""

from pipeline.client.bodies import json_message
from pipeline.client.queue_client import QueueClient
from pipeline.client.session import ClientSession
from pipeline.client.settling import Settling

__all__ = ["ClientSession", "QueueClient", "Settling", "json_message"]

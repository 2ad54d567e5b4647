"""queue-runtime on Ray: the actors, and the runtime that starts them.

`Runtime` is what a program or a notebook uses; the `queue-runtime run` command is the same.
"""

from actors.runtime import Runtime

__all__ = ["Runtime"]

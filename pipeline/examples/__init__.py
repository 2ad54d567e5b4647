"""Jobs that run as they are: what `make run` starts, and what a job of one's own can begin from."""

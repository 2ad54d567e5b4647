"""Where encryption keys are kept: a module for each place, chosen in `pipeline.crypto.open`."""

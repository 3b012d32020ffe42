"""The reconcile loop: it makes the kernel match the configuration, and tells the relay's state."""

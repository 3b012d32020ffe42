"""The reconcile loop: the world made to match the configuration, and how it stands."""

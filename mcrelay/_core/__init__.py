"""The compiled core, built from pyx/; only mcrelay.engine and the send/recv commands import its modules."""

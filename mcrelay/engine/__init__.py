"""What forwards: it alone imports the compiled core (but for test traffic)."""

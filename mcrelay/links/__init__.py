"""Links as they are: watched, switched, seen to go away."""

"""What everything else talks about, as frozen values; text of streams and rates. Imports errors alone."""

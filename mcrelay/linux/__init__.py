"""One outside thing a file, without policy: filters, netlink, /proc, systemd, capabilities."""

"""One kernel or system interface in each file, without policy: filters, netlink, /proc, systemd, capabilities."""
